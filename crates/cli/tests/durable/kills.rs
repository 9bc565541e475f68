//! Kills: of the script, of the wrapper, of the guardian, of all of them.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use crate::rig::{Rig, guardians, is_there, kill, root, skipped, spawn, wait_until};

#[test]
fn a_script_that_is_killed_leaves_no_directory_and_the_wrapper_says_what_it_ran() {
    let rig = Rig::new("killed");
    let ran = rig.run(&[], r#"d=$(mktemp -d); epilogue defer -- rm -rf "$d"; kill -9 $$"#);
    assert_eq!(ran.code(), 137, "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
    assert!(ran.stderr().contains("bash was killed by SIGKILL; ran 1 of 1 cleanup in "), "{}", ran.stderr());
    assert_eq!(rig.runs(), 0, "a paid run is taken away");
}

/// EPILOGUE_KILLS=1000 for the whole of it.
#[test]
fn killed_at_random_moments_not_one_directory_is_left() {
    let kills: u32 = std::env::var("EPILOGUE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let rig = Rig::new("random");
    let mut seed = u64::from(std::process::id());
    eprintln!("seed {seed}, {kills} kills");
    let mut made = 0;
    for round in 0..kills {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let script = r#"echo $$; d=$(epilogue tmp -d); : > "$d/file"; echo made; sleep 20"#;
        let mut child = rig.wrapped(&["--quiet"], script).stderr(Stdio::inherit()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pid = lines.next().unwrap().unwrap().parse().unwrap();
        // The moment is what is tried.
        std::thread::sleep(Duration::from_micros(seed >> 33 & 0x3fff));
        kill(pid, libc::SIGKILL);
        assert_eq!(child.wait().unwrap().code(), Some(137));
        made += u32::from(lines.map_while(Result::ok).any(|line| line == "made"));
        // The command that makes it may outlive the script, and then finds that it is too late.
        wait_until(&format!("round {round}: nothing is left"), || rig.left().is_empty());
    }
    assert_eq!(rig.left(), [""; 0]);
    eprintln!("{made} of {kills} had made it");
    assert!(made > 0 && made < kills, "{made} of {kills}: the kills were not at random moments");
}

#[test]
fn the_wrapper_killed_while_the_script_lives_pays_nothing_under_its_feet() {
    let rig = Rig::new("wrapper");
    let script = r#"d=$(epilogue tmp -d); echo "$d" > note-dir; while [ ! -e note-go ]; do sleep 0.01; done
                    [ -d "$d" ] && echo there > note-there"#;
    let mut wrapper = spawn(rig.wrapped(&["--on-wrapper-death", "wait"], script));
    rig.wait_for("note-dir");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    let recovered = rig.epilogue(&["recover"]);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr());
    assert_eq!(rig.left().len(), 1, "recover does not pay under a living script either");
    std::fs::write(rig.path("note-go"), "").unwrap();
    wait_until("the guardian has paid", || rig.left().is_empty() && rig.runs() == 0);
    assert_eq!(rig.read("note-there").trim(), "there");
    let log = rig.epilogue(&["pending", "log"]).stdout();
    assert!(log.contains("the guardian ran 1 of 1"), "{log}");
}

#[test]
fn a_script_whose_wrapper_is_killed_is_told_to_end_and_then_paid_for() {
    let rig = Rig::new("told");
    let script =
        r#"trap 'echo told > note-told; exit' TERM; epilogue tmp > note-file; while :; do sleep 0.01; done"#;
    let mut wrapper = spawn(rig.wrapped(&[], script));
    wait_until("it is on record and guarded", || {
        !rig.read("note-file").is_empty() && guardians(&rig).len() == 1
    });
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    wait_until("it was told", || rig.read("note-told").trim() == "told");
    wait_until("it was paid", || rig.left().is_empty());
}

#[test]
fn with_wrapper_guardian_and_script_all_killed_recover_pays() {
    let rig = Rig::new("all");
    let script = "epilogue tmp -d > note-dir; echo $$ > note-pid; sleep 60";
    let mut wrapper = spawn(rig.wrapped(&[], script));
    rig.wait_for("note-pid");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    // The wrapper first: it would start another guardian.
    kill(wrapper.id(), libc::SIGSTOP);
    for guardian in guardians(&rig) {
        kill(guardian, libc::SIGKILL);
    }
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    let script_pid = rig.read("note-pid").trim().parse().unwrap();
    kill(script_pid, libc::SIGKILL);
    wait_until("the script is gone", || !is_there(script_pid));
    assert_eq!(rig.left().len(), 1, "nobody is there to pay");
    let list = rig.epilogue(&["pending", "list"]);
    assert!(list.stdout().contains("pending") && list.stdout().contains("dead"), "{}", list.stdout());
    let recovered = rig.epilogue(&["recover"]);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr());
    assert!(recovered.stderr().contains("ran 1 of 1"), "{}", recovered.stderr());
    assert_eq!((rig.left().len(), rig.runs()), (0, 0));
    let again = rig.epilogue(&["recover"]);
    assert_eq!((again.code(), again.stderr().as_str()), (0, ""));
}

#[test]
fn a_kill_of_the_whole_process_group_does_not_reach_the_guardian() {
    let rig = Rig::new("group");
    let mut command = rig.wrapped(&[], "epilogue tmp -d > note-dir; echo > note-ready; sleep 60");
    command.process_group(0);
    let mut wrapper = spawn(command);
    rig.wait_for("note-ready");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    // SAFETY: no memory is passed.
    unsafe { libc::killpg(i32::try_from(wrapper.id()).unwrap(), libc::SIGKILL) };
    wrapper.wait().unwrap();
    wait_until("the guardian has paid", || rig.left().is_empty() && rig.runs() == 0);
}

#[test]
fn a_guardian_that_is_killed_is_started_again() {
    let rig = Rig::new("again");
    let script = "epilogue tmp -d > note-dir; echo $$ > note-pid; while [ ! -e note-go ]; do sleep 0.01; done; kill -9 $$";
    let mut wrapper = spawn(rig.wrapped(&["--on-wrapper-death", "wait"], script));
    rig.wait_for("note-pid");
    for _ in 0..3 {
        wait_until("it is guarded", || guardians(&rig).len() == 1);
        let first = guardians(&rig)[0];
        kill(first, libc::SIGKILL);
        wait_until("another has come", || guardians(&rig).iter().any(|pid| *pid != first));
    }
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    std::fs::write(rig.path("note-go"), "").unwrap();
    wait_until("the last of them has paid", || rig.left().is_empty());
}

#[test]
fn only_term_ends_an_idle_guardian_and_hangups_never_use_up_its_successors() {
    let rig = Rig::new("hup");
    let mut wrapper = spawn(rig.wrapped(&[], "echo > note-ready; sleep 60"));
    rig.wait_for("note-ready");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    let first = guardians(&rig)[0];
    wait_until("it is in a session of its own", || {
        let stat = std::fs::read_to_string(format!("/proc/{first}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)) == Some(&first.to_string())
    });
    for _ in 0..30 {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGUSR1] {
            kill(first, signal);
        }
    }
    // TERM: nothing is owed, so it leaves at once, and another comes.
    assert_eq!(guardians(&rig), [first]);
    kill(first, libc::SIGTERM);
    wait_until("another has come", || guardians(&rig).iter().any(|pid| *pid != first));
    kill(wrapper.id(), libc::SIGTERM);
    wrapper.wait().unwrap();
}

#[test]
fn a_guardian_that_is_killed_again_and_again_is_given_up_aloud() {
    let rig = Rig::new("storm");
    let mut command = rig.wrapped(&[], "epilogue tmp > note-file; echo > note-ready; exec sleep 60");
    let told = std::fs::File::create(rig.path("note-told")).unwrap();
    let mut wrapper = command.stderr(told).spawn().unwrap();
    rig.wait_for("note-ready");
    wait_until("it is said", || {
        guardians(&rig).into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        rig.read("note-told").contains("no guardian any more (it was started 20 times")
    });
    assert!(guardians(&rig).is_empty());
    kill(wrapper.id(), libc::SIGTERM);
    wrapper.wait().unwrap();
    assert_eq!((rig.left().len(), rig.runs()), (0, 0), "the wrapper pays all the same");
}

/// The wrapper is stopped between its guardian and its command, then killed with the command alive.
#[test]
fn a_guardian_that_was_there_before_the_command_does_not_pay_under_it() {
    let rig = Rig::new("before");
    let script =
        r#"epilogue tmp -d > note-dir; echo $$ > note-pid; while [ ! -e note-go ]; do sleep 0.01; done"#;
    let mut wrapper = spawn(rig.wrapped(&["--on-wrapper-death", "wait"], script));
    wait_until("its guardian is there", || {
        // As early as can be seen.
        guardians(&rig).len() == 1
    });
    kill(wrapper.id(), libc::SIGSTOP);
    // Until the guardian watches what the journal said before the command named itself.
    let guardian = guardians(&rig)[0];
    wait_until("the guardian sleeps", || {
        std::fs::read_to_string(format!("/proc/{guardian}/stat")).is_ok_and(|stat| stat.contains(") S "))
    });
    kill(wrapper.id(), libc::SIGCONT);
    rig.wait_for("note-pid");
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    assert_eq!(rig.left().len(), 1, "nothing is paid under the command");
    std::fs::write(rig.path("note-go"), "").unwrap();
    wait_until("the guardian has paid", || rig.left().is_empty() && rig.runs() == 0);
}

#[test]
fn a_guardian_killed_in_mid_payment_leaves_the_rest_to_recover() {
    let rig = Rig::new("mid");
    let script = r#"epilogue tmp -d > note-dir
        epilogue defer -- sh -c 'echo $PPID > note-payer; while [ ! -e note-go ]; do sleep 0.01; done; echo >> note-twice'
        echo $$ > note-pid; while :; do sleep 0.01; done"#;
    let mut wrapper = spawn(rig.wrapped(&["--on-wrapper-death", "wait"], script));
    rig.wait_for("note-pid");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    kill(rig.read("note-pid").trim().parse().unwrap(), libc::SIGKILL);
    wait_until("the guardian is at it", || !rig.read("note-payer").trim().is_empty());
    kill(rig.read("note-payer").trim().parse().unwrap(), libc::SIGKILL);
    wait_until("the guardian is gone", || guardians(&rig).is_empty());
    std::fs::write(rig.path("note-go"), "").unwrap();
    let recovered = rig.epilogue(&["recover", "--wait", "10s"]);
    assert_eq!(recovered.code(), 0, "{}", recovered.stderr());
    assert_eq!(rig.left(), [""; 0]);
    assert!(!rig.read("note-twice").is_empty(), "what had been begun is begun again");
}

#[test]
fn the_processor_time_limit_kills_and_is_paid_for() {
    let rig = Rig::new("cpu");
    let ran = rig.run(&[], "epilogue tmp -d > note-dir; ulimit -t 1; while :; do :; done");
    assert!([137, 152].contains(&ran.code()), "{}: {}", ran.code(), ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn out_of_memory_in_a_control_group_is_paid_for() {
    let rig = Rig::new("memory");
    let group = format!("/sys/fs/cgroup/memory/epilogue-{}", std::process::id());
    let limited = std::fs::create_dir(&group).is_ok()
        && std::fs::write(format!("{group}/memory.limit_in_bytes"), "50000000").is_ok();
    if !limited {
        let _ = std::fs::remove_dir(&group);
        return skipped("no memory control group can be made here");
    }
    let script = format!(
        "epilogue tmp -d > note-dir; echo $$ > {group}/cgroup.procs; exec python3 -c 'x = bytearray(400000000)'"
    );
    let ran = rig.run(&[], &script);
    let _ = std::fs::remove_dir(&group);
    assert_eq!(ran.code(), 137, "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn as_the_first_process_of_a_namespace_it_reaps_pays_and_leaves() {
    if !root() {
        return skipped("a PID namespace needs root");
    }
    let rig = Rig::new("pid1");
    let mut command = rig.command("unshare");
    let script = r#"[ "$PPID" = 1 ] || exit 9; epilogue tmp -d > note-dir; (sleep 30 &) ; kill -9 $$"#;
    command.args(["--pid", "--fork", "--mount-proc", "epilogue", "run", "--", "bash", "-c", script]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if stderr.contains("unshare failed") || stderr.contains("mount") {
        return skipped("no PID namespace can be made here");
    }
    assert_eq!(output.status.code(), Some(137), "{stderr}");
    assert!(stderr.contains("ending what it left running"), "{stderr}");
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn a_namespace_that_is_killed_whole_is_recovered_from_outside() {
    if !root() {
        return skipped("a PID namespace needs root");
    }
    let rig = Rig::new("container");
    let mut command = rig.command("unshare");
    let script = "epilogue tmp -d > note-dir; echo > note-ready; sleep 60";
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "epilogue",
        "run",
        "--",
        "bash",
        "-c",
        script,
    ]);
    let mut outside = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    rig.wait_for("note-ready");
    let early = rig.epilogue(&["recover"]);
    assert_eq!(early.code(), 0, "{}", early.stderr());
    assert_eq!(rig.left().len(), 1, "it lives: the lock says so across the namespace");
    let inside = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outside.id())).unwrap();
    kill(inside.trim().parse().unwrap(), libc::SIGKILL);
    outside.wait().unwrap();
    wait_until("recover pays it", || rig.epilogue(&["recover"]).code() == 0 && rig.left().is_empty());
}

#[test]
fn a_run_whose_directory_is_deleted_is_paid_all_the_same() {
    let rig = Rig::new("deleted");
    let script = r#"epilogue defer -- bash -c 'echo paid >> note-paid'; rm -rf "$EPILOGUE_STATE_DIR"/*
                    epilogue defer -- true; echo $? > note-code"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert!(ran.stderr().contains("was deleted; what was on record is paid"), "{}", ran.stderr());
    assert_eq!((rig.read("note-paid").as_str(), rig.read("note-code").as_str()), ("paid\n", "75\n"));
    // And by the guardian, with wrapper and script killed.
    let script = r#"epilogue defer -- bash -c 'echo guardian >> note-paid'; rm -rf "$EPILOGUE_STATE_DIR"/*
                    touch note-ready; sleep 600"#;
    let mut wrapper = spawn(rig.wrapped(&[], script));
    rig.wait_for("note-ready");
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    wait_until("the guardian has paid", || rig.read("note-paid") == "paid\nguardian\n");
}
