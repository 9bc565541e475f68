//! Every way in which a program with durable cleanups can end.

mod rig;

use std::os::unix::process::ExitStatusExt;

use epilogue_guardian::{Call, Home, NewRun, Run, When};
use epilogue_journal::{Record, State, Tier};
use rig::{Rig, kill, wait_until};

/// Newest first; what was disarmed is missing; what became known is told.
const ALL: [&str; 3] = ["four -", "two known", "one -"];

#[test]
fn a_return_and_a_panic_run_them_as_any_cleanup() {
    for (way, code) in [("returns", 0), ("panics", 101)] {
        let rig = Rig::new(way);
        let output = rig.command(way).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(rig.ran(), ALL, "{way}");
        rig.wait_paid();
        assert_eq!(rig.ran(), ALL, "{way}: once");
    }
}

#[test]
fn sigkill_abort_and_a_crash_are_paid_by_the_guardian() {
    for (way, signal) in [("waits", libc::SIGKILL), ("aborts", libc::SIGABRT), ("waits-segv", libc::SIGSEGV)]
    {
        let rig = Rig::new(&format!("killed-{way}"));
        let mut child = rig.start(way, "ready");
        if way != "aborts" {
            kill(child.id(), signal);
        }
        if signal == libc::SIGSEGV {
            // The runtime passes over the first, in case it was its own.
            wait_until("it is gone", || {
                kill(child.id(), signal);
                child.try_wait().unwrap().is_some()
            });
        }
        assert_eq!(child.wait().unwrap().signal(), Some(signal));
        rig.wait_paid();
        assert_eq!(rig.ran(), ALL, "{way}");
    }
}

#[test]
fn what_ran_early_does_not_run_again() {
    let rig = Rig::new("now");
    assert!(rig.command("runs-now").output().unwrap().status.success());
    assert_eq!(rig.ran(), ALL);
    rig.wait_paid();
    assert_eq!(rig.ran(), ALL);
}

#[test]
fn a_forked_child_owes_nothing_of_what_its_parent_does() {
    let rig = Rig::new("fork");
    let mut child = rig.start("forks", "child gone");
    assert_eq!(rig.ran(), [""; 0], "the child has left its scope, and paid nothing");
    child.kill().unwrap();
    child.wait().unwrap();
    rig.wait_paid();
    assert_eq!(rig.ran(), ALL);
}

#[test]
fn in_a_program_they_stop_at_their_place_among_its_parts() {
    let order = ["durable-5 -", "part-3 -", "durable-2 -", "part-1 -"];
    let rig = Rig::new("service");
    let mut child = rig.start("service", "ready");
    kill(child.id(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(rig.ran(), order);
    rig.wait_paid();
    let rig = Rig::new("service-exits");
    assert_eq!(rig.start("service-exits", "ready").wait().unwrap().code(), Some(7));
    assert_eq!(rig.ran(), order);
    rig.wait_paid();
    let rig = Rig::new("service-killed");
    let mut child = rig.start("service", "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    rig.wait_paid();
    assert_eq!(rig.ran(), ["durable-5 -", "durable-2 -"], "parts are closures: they die with the process");
}

#[test]
fn with_its_guardian_killed_too_the_next_start_pays() {
    let rig = Rig::new("next");
    let mut child = rig.start("waits", "ready");
    wait_until("it is guarded", || rig.guardians().len() == 1);
    // The owner would start another guardian.
    kill(child.id(), libc::SIGSTOP);
    kill(rig.guardians()[0], libc::SIGKILL);
    kill(child.id(), libc::SIGKILL);
    child.wait().unwrap();
    wait_until("the guardian is gone", || rig.guardians().is_empty());
    assert_eq!(rig.ran(), [""; 0]);
    let next = rig.command("recover").output().unwrap();
    assert!(String::from_utf8_lossy(&next.stdout).contains("Paid"), "{next:?}");
    assert_eq!((rig.ran(), rig.runs().len()), (ALL.map(str::to_owned).to_vec(), 0));
}

#[test]
fn an_action_that_kills_its_runner_is_parked_and_kept() {
    let rig = Rig::new("poison");
    let mut child = rig.start("crashes", "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    let entry = || {
        let run = Run::open(&rig.runs()[0]).ok()?;
        run.journal.scan().ok()?.entries.first().cloned()
    };
    wait_until("it was tried, and failed", || entry().is_some_and(|entry| entry.attempts >= 2));
    assert!(entry().is_some_and(|entry| entry.state.is_open()), "it is kept");
    let log = std::fs::read_to_string(rig.runs()[0].join("log")).unwrap();
    assert!(log.contains("died of signal 6"), "the guardian lives, and says so: {log}");
    rig.guardians().into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
}

#[test]
fn what_this_program_does_not_know_is_parked_and_a_former_name_is_known() {
    let rig = Rig::new("unknown");
    let home = Home::find(Some(&rig.dir.join("state")), Tier::Process).unwrap();
    let new = NewRun { program: Some(Rig::program()), ..NewRun::default() };
    let run = Run::create(&home, new).unwrap();
    let arguments = serde_json::json!({ "dir": rig.dir, "name": "renamed" });
    for (action, version) in [("owes.gone", 1), ("owes.mark", 9), ("owes.old-name", 1)] {
        let call = Call {
            action: action.into(),
            version,
            arguments: arguments.clone(),
            name: None,
            timeout_ms: None,
            retries: None,
            when: When::Always,
            destroys: false,
            within: Vec::new(),
        };
        let body = call.to_bytes().unwrap();
        run.journal.register(&Record { scope: 1, time_ms: 0, body: &body, tier: Tier::Process }).unwrap();
    }
    // Its owner is nobody who lives.
    run.journal.set_owner(epilogue_journal::ProcessId { pid: u32::MAX >> 1, start: 1 }).unwrap();
    let told = rig.command("recover").output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("knows no action") && told.contains("version 9"), "{told}");
    assert_eq!(rig.ran(), ["renamed -"]);
    let states: Vec<State> = run.journal.scan().unwrap().entries.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [State::Parked, State::Parked, State::Done]);
}

#[test]
fn a_scope_keeps_nothing_of_what_was_disarmed_in_the_order_of_a_stack_or_hand_over_hand() {
    let rig = Rig::new("loops");
    let output = rig.command("loops").output().unwrap();
    let grown: Vec<u64> = String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(|bytes| bytes.parse().unwrap())
        .collect();
    // Over 200,000 turns on each kind of scope: less than a byte a turn. The system counts in batches.
    assert!(grown.len() == 4 && grown.iter().all(|bytes| *bytes < 200_000), "{output:?}");
}

#[test]
fn where_sigchld_is_ignored_a_command_is_still_judged_by_how_it_ended() {
    let rig = Rig::new("sigchld");
    let output = rig.command("collects-no-children").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if kernel() < (6, 15) {
        assert_eq!(said.matches("nobody can tell how").count(), 2, "{said}");
    } else {
        assert!(said.contains("exit 1': exit code 1; it stays on record"), "{said}");
        assert!(!said.contains("exit 0"), "{said}");
    }
    rig.guardians().into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
}

#[test]
fn one_that_failed_early_can_be_tried_again_and_then_runs_no_more() {
    let rig = Rig::new("runs-again");
    let output = rig.command("runs-again").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.ends_with("it stays on record; then Ok(true) and Ok(false)\n"), "{output:?}");
    rig.wait_paid();
}

/// The version of the kernel that runs.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.trim().parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}
