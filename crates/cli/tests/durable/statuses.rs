//! The exit statuses of `epilogue run`, every line of their table.

use crate::rig::{Rig, kill, spawn, wait_until};

#[test]
fn the_status_is_that_of_the_command() {
    let rig = Rig::new("status");
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)] {
        assert_eq!(rig.run(&[], script).code(), code);
    }
    for (signal, code) in [("KILL", 137), ("SEGV", 139), ("ABRT", 134)] {
        assert_eq!(rig.run(&[], &format!("ulimit -c 0; kill -{signal} $$")).code(), code, "{signal}");
    }
    for (name, number) in
        [("INT", libc::SIGINT), ("TERM", libc::SIGTERM), ("HUP", libc::SIGHUP), ("QUIT", libc::SIGQUIT)]
    {
        // bash itself never dies of QUIT.
        let suicide = format!("exec python3 -c 'import os, signal; os.kill(os.getpid(), signal.SIG{name})'");
        let ran = rig.run(&[], &format!("ulimit -c 0; {suicide}"));
        assert_eq!(
            ran.signal(),
            Some(number),
            "a shell stops its loop only for who died of it: {}",
            ran.stderr()
        );
    }
    assert_eq!(rig.runs(), 0);
}

#[test]
fn a_cleanup_that_fails_is_the_status_only_where_the_command_has_none() {
    let rig = Rig::new("failing");
    let ran = rig.run(&[], "epilogue defer --retries 0 -- false");
    assert_eq!(ran.code(), 123);
    assert!(ran.stderr().contains("/1 false: exit code 1"), "{}", ran.stderr());
    assert_eq!(rig.run(&[], "epilogue defer --retries 0 -- false; exit 4").code(), 4);
}

#[test]
fn a_command_that_cannot_be_run_and_a_wrapper_that_cannot_run_it_are_told_apart() {
    let rig = Rig::new("cannot");
    let missing = rig.epilogue(&["run", "--", "no-such-command"]);
    assert_eq!(missing.code(), 127);
    assert!(missing.stderr().contains("no-such-command: No such file"), "{}", missing.stderr());
    std::fs::write(rig.path("note-plain"), "").unwrap();
    assert_eq!(rig.epilogue(&["run", "--", "./note-plain"]).code(), 126);
    let nowhere = rig.epilogue(&["run", "--dir", "/proc/nowhere", "--", "true"]);
    assert_eq!(nowhere.code(), 125);
    assert!(nowhere.stderr().contains("/proc/nowhere"), "{}", nowhere.stderr());
    assert_eq!(rig.epilogue(&["run"]).code(), 2);
    assert_eq!(rig.runs(), 0, "nothing of them is left");
}

#[test]
fn a_command_that_overstays_its_grace_is_killed_and_the_status_says_by_whom() {
    let rig = Rig::new("grace");
    let script = "trap '' TERM; epilogue tmp > note-file; echo $$ > note-pid; while :; do sleep 0.01; done";
    let mut command = rig.wrapped(&["--grace", "300ms"], script);
    // Without a terminal: with one it is never killed.
    // SAFETY: setsid may be called between fork and exec.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::setsid();
            Ok(())
        });
    }
    let mut wrapper = spawn(command);
    rig.wait_for("note-pid");
    kill(wrapper.id(), libc::SIGTERM);
    assert_eq!(wrapper.wait().unwrap().code(), Some(124));
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn what_another_process_sends_to_the_wrapper_reaches_the_command() {
    let rig = Rig::new("forward");
    let script = r#"for s in INT TERM HUP QUIT USR1 USR2; do trap "echo $s >> note-got" $s; done
                    echo > note-ready; until [ "$(wc -l < note-got 2>/dev/null)" = 6 ]; do sleep 0.01; done"#;
    let mut wrapper = spawn(rig.wrapped(&[], script));
    rig.wait_for("note-ready");
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        let before = rig.read("note-got").lines().count();
        kill(wrapper.id(), signal);
        wait_until("it has arrived", || rig.read("note-got").lines().count() == before + 1);
    }
    assert_eq!(wrapper.wait().unwrap().code(), Some(0));
}

#[test]
fn started_with_sigchld_ignored_it_still_sees_its_command_end() {
    let rig = Rig::new("sigchld");
    let mut command = rig.command("python3");
    let script = "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); \
                  os.execvp('epilogue', ['epilogue', 'run', '--', 'sh', '-c', 'epilogue defer -- touch note-paid; exit 6'])";
    let output = command.args(["-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(rig.path("note-paid").exists());
}

#[test]
fn the_report_as_json_says_what_the_lines_say() {
    let rig = Rig::new("json");
    let ran = rig.run(&["--json", "-"], "epilogue defer -- true; exit 5");
    assert_eq!(ran.code(), 5);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout()).unwrap();
    assert_eq!((&json["schema"], &json["ended"]["number"]), (&"epilogue.run/v1".into(), &5.into()));
    assert_eq!(json["report"]["ran"][0]["what"], "true");
}

#[test]
fn the_output_of_cleanups_does_not_mix_with_that_of_the_command() {
    let rig = Rig::new("output");
    let ran = rig.run(&[], "epilogue defer -- echo from the cleanup; echo from the command; sleep 30 &");
    assert_eq!(ran.stdout(), "from the command\n");
    assert!(ran.stderr().contains("from the cleanup\n"), "{}", ran.stderr());
    assert!(ran.stderr().contains("it left running: "), "{}", ran.stderr());
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let rig = Rig::new("nohup");
    for signal in ["HUP", "INT", "TERM", "QUIT"] {
        let script = format!(
            r#"(trap '' {signal}; exec epilogue run --grace 100ms -- bash -c '
                   epilogue tmp > note-file; touch note-ready; until [ -e note-go ]; do sleep 0.01; done; exit 7') &
               until [ -e note-ready ]; do sleep 0.01; done
               kill -{signal} $!; touch note-go; wait $!; echo $? > note-code; rm note-ready note-go"#
        );
        let output = rig.command("bash").args(["-c", &script]).output().unwrap();
        assert_eq!(rig.read("note-code"), "7\n", "{signal}: {output:?}");
        assert_eq!(rig.left(), [""; 0]);
    }
}

#[test]
fn a_reader_that_has_gone_does_not_make_cleanups_fail() {
    let rig = Rig::new("closed-pipe");
    let script = r#"epilogue run -- bash -c 'epilogue defer -- bash -c "echo hi; sleep 0.1; echo ho; touch note-done"
                        echo 1; until [ -e note-gone ]; do sleep 0.01; done' 2>&1 | { head -1; }
                    echo ${PIPESTATUS[0]} > note-code"#;
    let script = script.replace("{ head -1; }", "{ head -1; exec <&-; touch note-gone; }");
    let output = rig.command("bash").args(["-c", &script]).output().unwrap();
    assert_eq!((rig.read("note-code").as_str(), rig.path("note-done").exists()), ("0\n", true), "{output:?}");
}

#[test]
fn a_report_or_a_name_that_cannot_be_written_is_an_error() {
    let rig = Rig::new("unwritten");
    let ran = rig.run(&["--json", "/nonexistent/report"], "touch note-ran");
    assert_eq!((ran.code(), rig.path("note-ran").exists()), (125, false), "{}", ran.stderr());
    let ran = rig.run(&[], "epilogue tmp > /dev/full; echo $? > note-code");
    assert_eq!((ran.code(), rig.read("note-code").as_str()), (0, "74\n"), "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
}
