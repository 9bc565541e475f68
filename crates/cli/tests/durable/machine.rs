//! What the machine does: stopped owners, other boots, reused pids, paths that change hands.

use std::os::unix::process::CommandExt;

use crate::rig::{Rig, guardians, kill, spawn, wait_until};

#[test]
fn a_stopped_owner_is_waited_for_and_its_death_is_seen_all_the_same() {
    let rig = Rig::new("stopped");
    let script = "epilogue tmp -d > note-dir; echo $$ > note-pid; sleep 60";
    let mut wrapper = spawn(rig.wrapped(&["--on-wrapper-death", "wait"], script));
    rig.wait_for("note-pid");
    let owner: u32 = rig.read("note-pid").trim().parse().unwrap();
    kill(owner, libc::SIGSTOP);
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    assert_eq!(rig.left().len(), 1, "who is stopped lives");
    kill(owner, libc::SIGKILL);
    wait_until("the guardian has paid", || rig.left().is_empty());
}

#[test]
fn an_owner_that_becomes_another_program_is_not_dead() {
    let rig = Rig::new("exec");
    let script = r#"epilogue defer --owner $$ -- sh -c 'echo paid > note-paid'; echo $$ > note-pid
                    exec python3 -c 'import time, os; open("note-exec", "w").close(); time.sleep(60)'"#;
    let mut command = rig.command("bash");
    command.args(["-c", script]);
    let mut shell = spawn(command);
    rig.wait_for("note-exec");
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    assert!(!rig.path("note-paid").exists());
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait_until("the guardian has paid", || rig.path("note-paid").exists());
}

#[test]
fn what_is_removed_is_what_was_meant_and_not_what_a_link_leads_to() {
    let rig = Rig::new("links");
    std::fs::create_dir(rig.path("note-precious")).unwrap();
    std::fs::write(rig.path("note-precious/file"), "").unwrap();
    // The directory is swapped for a link, and a link lies inside of another.
    let ran = rig.run(
        &[],
        r#"d=$(epilogue tmp -d); rmdir "$d"; ln -s "$PWD/note-precious" "$d"
           e=$(epilogue tmp -d); ln -s "$PWD/note-precious" "$e/inside""#,
    );
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
    assert!(rig.path("note-precious/file").exists());
}

#[test]
fn a_process_that_has_a_reused_pid_is_left_alone() {
    let rig = Rig::new("pid");
    // The record names the pid with another start.
    let script = r#"sleep 60 & p=$!; epilogue defer --kill $p; echo $p > note-pid"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    let pid: u32 = rig.read("note-pid").trim().parse().unwrap();
    assert!(!crate::rig::is_there(pid), "the process itself is ended");
}

#[test]
fn core_dumps_on_and_a_big_owner_are_paid_for_once_the_kernel_is_done() {
    let rig = Rig::new("core");
    let script = r#"ulimit -c unlimited; d=$(epilogue tmp -d); cd "$d"
                    exec python3 -c 'import os; x = bytearray(200 << 20); os.abort()'"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 134, "{}", ran.stderr());
    wait_until("nothing is left", || rig.left().iter().all(|name| name.starts_with("core")));
}

#[test]
fn capabilities_say_where_the_journal_goes_and_why_not_elsewhere() {
    let rig = Rig::new("capabilities");
    let told = rig.epilogue(&["capabilities"]);
    assert_eq!(told.code(), 0, "{}", told.stderr());
    assert!(told.stdout().contains("EPILOGUE_STATE_DIR"), "{}", told.stdout());
    let mut command = rig.command(env!("CARGO_BIN_EXE_epilogue"));
    command
        .args(["capabilities", "--json"])
        .env_remove("EPILOGUE_STATE_DIR")
        .env("STATE_DIRECTORY", "/proc/no")
        .env("HOME", "/nonexistent")
        .env("XDG_STATE_HOME", rig.dir.join("xdg"));
    let json: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert!(json["passed_over"].to_string().contains("/proc/no"), "{json:#}");
    assert!(json["survives_reboot"].is_boolean());
}

#[test]
fn a_tree_of_this_user_is_removed_also_where_it_was_made_read_only() {
    let rig = Rig::new("read-only");
    let script = r#"d=$(epilogue tmp -d); mkdir -p "$d/a/b" "$d/none"; touch "$d/a/b/file" "$d/none/file"
                    chmod 500 "$d/a/b" "$d/a" "$d"; chmod 0 "$d/none""#;
    let mut command = rig.wrapped(&[], script);
    if crate::rig::root() {
        // To root nothing is read-only.
        rig.give_to(65534);
        // SAFETY: may be called between fork and exec.
        unsafe {
            command.pre_exec(|| match libc::setgid(65534) | libc::setuid(65534) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
    }
    let ran = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return crate::rig::skipped("another user may not run what was built here");
        }
        ran => crate::rig::Ran(ran.unwrap()),
    };
    assert!(ran.stderr().contains("ran 1 of 1"), "{}", ran.stderr());
    assert_eq!((ran.code(), rig.left().len(), rig.runs()), (0, 0, 0));
}
