//! Order, conditions, names; scopes inside scopes, and how they are found.

use crate::rig::{Rig, guardians, kill, spawn, wait_until};

#[test]
fn cleanups_run_newest_first_whoever_registered_them() {
    let rig = Rig::new("order");
    let ran = rig.run(
        &[],
        r#"epilogue defer -- sh -c 'echo 1 >> note-order'
           bash -c "epilogue defer -- sh -c 'echo 2 >> note-order'"
           python3 -c "import subprocess; subprocess.check_call(['epilogue', 'defer', '--', 'sh', '-c', 'echo 3 >> note-order'])"
           printf 'all:\n\tepilogue defer -- sh -c "echo 4 >> note-order"\n' > note-makefile; make -s -f note-makefile
           kill -9 $$"#,
    );
    assert_eq!(ran.code(), 137, "{}", ran.stderr());
    assert_eq!(rig.read("note-order"), "4\n3\n2\n1\n");
}

#[test]
fn conditions_look_at_how_the_command_ended_and_cleanups_are_told() {
    let rig = Rig::new("when");
    let script = r#"epilogue defer --on-failure -- sh -c 'echo "failure $EPILOGUE_EXIT $EPILOGUE_EXIT_CODE" >> note-when'
                    epilogue defer --on-success -- sh -c 'echo "success $EPILOGUE_EXIT $EPILOGUE_EXIT_CODE" >> note-when'
                    epilogue defer -- sh -c 'echo "$EPILOGUE_ATTEMPT ${EPILOGUE_SCOPE-none}" >> note-told'"#;
    for (end, expected) in [
        ("exit 0", "success ok 0\n"),
        ("exit 7", "failure failed 7\n"),
        ("kill -9 $$", "failure signalled 137\n"),
    ] {
        let _ = std::fs::remove_file(rig.path("note-when"));
        rig.run(&[], &format!("{script}\n{end}"));
        assert_eq!(rig.read("note-when"), expected, "{end}");
    }
    assert_eq!(rig.read("note-told"), "1 none\n1 none\n1 none\n");
}

#[test]
fn a_cleanup_is_disarmed_by_name_or_id_and_late_is_told() {
    let rig = Rig::new("disarm");
    let ran = rig.run(
        &[],
        r#"set -e
           epilogue defer --name undo -- sh -c 'echo undone > note-undone'
           id=$(epilogue defer -p -- sh -c 'echo by id > note-undone')
           epilogue disarm undo; epilogue disarm undo; epilogue disarm "$id"
           set +e; epilogue disarm nobody; echo "$?" > note-nobody
           epilogue defer --name late -- true
           epilogue defer -- sh -c 'epilogue disarm --scope "'"$EPILOGUE_SCOPE"'" late; echo $? > note-inside'"#,
    );
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(rig.read("note-undone"), "");
    assert_eq!(rig.read("note-nobody").trim(), "66");
    assert_eq!(rig.read("note-inside").trim(), "0", "it had not run yet");
}

#[test]
fn the_innermost_scope_is_meant_unless_another_is_named() {
    let rig = Rig::new("nested");
    let ran = rig.run(
        &[],
        r#"epilogue defer -- sh -c 'echo outer 1 >> note-order'
           epilogue run -- bash -c "
               epilogue defer -- sh -c 'echo inner >> note-order'
               epilogue defer --scope outer -- sh -c 'echo outer 2 >> note-order'
               epilogue defer --scope root -- sh -c 'echo outer 3 >> note-order'"
           echo between >> note-order"#,
    );
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(rig.read("note-order"), "inner\nbetween\nouter 3\nouter 2\nouter 1\n");
}

#[test]
fn an_inner_run_whose_payers_all_died_is_paid_by_the_outer_at_its_place() {
    let rig = Rig::new("inner-dead");
    let script = r#"epilogue defer -- sh -c 'echo older >> note-order'
        epilogue run -- bash -c "epilogue defer -- sh -c 'echo inner >> note-order'; echo \$\$ \$PPID > note-pids; sleep 60" &
        inner=$!
        while [ ! -s note-pids ]; do sleep 0.01; done
        epilogue defer -- sh -c 'echo newer >> note-order'
        while [ ! -e note-go ]; do sleep 0.01; done
        kill -9 $(cut -d' ' -f1 note-pids); exit 0"#;
    let mut wrapper = spawn(rig.wrapped(&[], script));
    wait_until("the newer one is on record", || {
        rig.epilogue(&["pending", "list"]).stdout().contains("newer")
    });
    wait_until("both are guarded", || guardians(&rig).len() == 2);
    let inner: u32 = rig.read("note-pids").split_whitespace().nth(1).unwrap().parse().unwrap();
    kill(inner, libc::SIGSTOP);
    // Both guardians: which is whose does not matter, the outer wrapper lives.
    for guardian in guardians(&rig) {
        kill(guardian, libc::SIGKILL);
    }
    kill(inner, libc::SIGKILL);
    std::fs::write(rig.path("note-go"), "").unwrap();
    assert_eq!(wrapper.wait().unwrap().code(), Some(0));
    assert_eq!(rig.read("note-order"), "newer\ninner\nolder\n");
    assert_eq!(rig.runs(), 0);
}

#[test]
fn a_scope_is_found_with_its_environment_wiped_also_by_what_outlives_the_script() {
    let rig = Rig::new("wiped");
    let state = rig.state().display().to_string();
    let ran = rig.run(
        &[],
        &format!(
            r#"env -i PATH="$PATH" EPILOGUE_STATE_DIR={state} epilogue defer -- sh -c 'echo paid > note-paid'"#
        ),
    );
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(rig.read("note-paid").trim(), "paid");
}

#[test]
fn without_a_wrapper_a_shell_is_guarded_by_its_pid() {
    let rig = Rig::new("owner");
    let script = r#"set -e
        epilogue defer --owner $$ -- sh -c 'echo first >> note-order'
        epilogue defer --owner $$ -- sh -c 'echo second >> note-order'
        kill -9 $$"#;
    let mut command = rig.command("bash");
    command.args(["-c", script]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), None, "{}", String::from_utf8_lossy(&output.stderr));
    wait_until("the guardian has paid both", || rig.read("note-order") == "second\nfirst\n");
    wait_until("and taken the run away", || rig.runs() == 0);
}

#[test]
fn without_a_wrapper_how_the_shell_ended_is_known_where_the_kernel_tells() {
    for (end, failed) in [("exit 0", false), ("exit 3", true), ("kill -9 $$", true)] {
        let rig = Rig::new("owner-ended");
        let script = format!(
            r#"set -e
            epilogue defer --owner $$ -- sh -c 'echo "$EPILOGUE_EXIT" > note-exit'
            epilogue defer --owner $$ --on-failure -- touch note-failed
            {end}"#
        );
        let mut command = rig.command("bash");
        command.args(["-c", &script]).output().unwrap();
        wait_until("both are settled", || rig.runs() == 0);
        let told = rig.read("note-exit").trim().to_owned();
        if told == "lost" {
            return crate::rig::skipped("this kernel does not tell how a process ended (6.15 does)");
        }
        assert_eq!(rig.path("note-failed").exists(), failed, "{end}: {told}");
    }
}

#[test]
fn names_for_what_does_not_exist_yet_are_each_another() {
    let rig = Rig::new("id");
    let ran = rig.run(&[], "epilogue id; epilogue id; epilogue id");
    let ids: std::collections::HashSet<String> = ran.stdout().lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), 3, "{}", ran.stdout());
    assert!(ids.iter().all(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')), "{ids:?}");
}

#[test]
fn a_destructive_cleanup_is_held_back_while_a_newer_one_has_failed() {
    let rig = Rig::new("held");
    let ran = rig.run(
        &["--pay", "10s"],
        r#"d=$(epilogue tmp -d); : > "$d/precious"
           epilogue defer --retries 0 -- sh -c 'echo cannot unmount >&2; exit 32'"#,
    );
    assert_eq!(ran.code(), 123, "{}", ran.stderr());
    assert_eq!(rig.left().len(), 1, "nothing is removed under a mount that could not be undone");
    assert!(
        ran.stderr().contains("held back: #") && ran.stderr().contains(" above it was not done"),
        "{}",
        ran.stderr()
    );
}

#[test]
fn of_several_with_one_name_the_newest_that_is_armed_is_disarmed() {
    let rig = Rig::new("same-name");
    let script = r#"for n in A B C; do epilogue defer --name u -- bash -c "echo $n >> note-ran"; done
                    epilogue disarm u && epilogue disarm u; echo $? > note-code"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!((rig.read("note-ran").as_str(), rig.read("note-code").as_str()), ("A\n", "0\n"));
}

#[test]
fn a_run_within_a_scope_that_is_cut_is_ended_and_paid_before_what_is_older() {
    let rig = Rig::new("inner-alive");
    let script = r#"epilogue defer -- bash -c 'echo outer >> note-order'
        epilogue run -- bash -c 'epilogue defer -- bash -c "echo inner >> note-order"; touch note-ready; sleep 600'"#;
    let mut wrapper = spawn(rig.wrapped(&[], script));
    rig.wait_for("note-ready");
    crate::rig::kill(wrapper.id(), libc::SIGTERM);
    wrapper.wait().unwrap();
    assert_eq!(rig.read("note-order"), "inner\nouter\n");
    wait_until("nothing is kept", || rig.runs() == 0);
}

#[test]
fn a_run_that_a_successful_scope_has_left_running_goes_on_and_owes_nobody() {
    let rig = Rig::new("inner-kept");
    let script = r#"epilogue run -- bash -c 'epilogue tmp > note-file; touch note-ready
                                             until [ -e note-go ]; do sleep 0.01; done; touch note-end' > /dev/null 2>&1 &
                    until [ -e note-ready ]; do sleep 0.01; done"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!((rig.runs(), rig.path("note-end").exists()), (1, false));
    std::fs::write(rig.path("note-go"), "").unwrap();
    wait_until("it has ended and paid", || rig.runs() == 0 && rig.left().is_empty());
    assert!(rig.path("note-end").exists(), "nobody told it to end");
}

#[test]
fn guardians_of_inner_runs_are_not_what_a_script_left_running() {
    let rig = Rig::new("inner-guardians");
    let ran = rig.run(&[], "epilogue run -- true; epilogue run -- true");
    assert_eq!((ran.code(), ran.stderr().as_str()), (0, ""));
    let ran = rig.run(&[], "sleep 600 & epilogue defer --kill $!");
    assert!(!ran.stderr().contains("left running"), "{}", ran.stderr());
}

#[test]
fn without_a_wrapper_success_is_told_from_failure_every_time() {
    let rig = Rig::new("owner-status");
    let script = r#"epilogue defer --owner $$ --on-failure -- bash -c 'echo failed >> note-ran'
                    epilogue defer --owner $$ --on-success -- bash -c 'echo well >> note-ran'; exit $1"#;
    for (code, said) in [("0", "well\n"), ("3", "failed\n")] {
        for _ in 0..10 {
            let mut command = rig.command("bash");
            command.args(["-c", script, "bash", code]);
            let _ = spawn(command).wait().unwrap();
            wait_until("the guardian has paid", || rig.runs() == 0);
            // Who collects the shell first takes what is left of it along; the kernel tells since 6.15.
            assert_eq!(rig.read("note-ran"), said, "exit {code}");
            std::fs::remove_file(rig.path("note-ran")).unwrap();
        }
    }
}
