//! What destroys does not run over what is newer and not done.

mod rig;

use epilogue_guardian::{Call, Run};
use rig::{Rig, wait_until};

/// Runs it to its end. What it said, to whom it serves and to whom it may concern.
fn run(rig: &Rig, way: &str) -> (String, String) {
    let output = rig.command(way).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{way}: {told}{said}");
    (told, said)
}

fn allow(rig: &Rig) {
    std::fs::write(rig.dir.join("allowed"), "").unwrap();
}

#[test]
fn what_destroys_is_held_back_while_a_newer_one_of_its_scope_is_unpaid() {
    let rig = Rig::new("mounted");
    let output = rig.command("mounted").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("held back: #") && said.contains("above it was not done"), "{said}");
    assert!(rig.dir.join("mounted").exists(), "{said}");
    assert!(!rig.dir.join("other").exists(), "it is of another scope");
    std::fs::write(rig.dir.join("allowed"), "").unwrap();
    rig.wait_paid();
    assert!(!rig.dir.join("mounted").exists());
}

#[test]
fn what_destroys_is_held_back_by_a_scope_within_its_own_too() {
    let rig = Rig::new("mounted-within");
    let output = rig.command("mounted-within").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let trees = || ["mounted-1", "mounted-2", "mounted-3"].map(|name| rig.dir.join(name).exists());
    assert_eq!(said.matches("held back: #").count(), 3, "{said}");
    assert!(!rig.dir.join("other").exists(), "nothing within it is left");
    wait_until("the guardian has tried", || {
        let log = rig.runs().first().map(|run| std::fs::read_to_string(run.join("log")));
        log.is_some_and(|log| log.is_ok_and(|log| log.matches("failed").count() >= 3))
    });
    assert_eq!(trees(), [true; 3], "nor does the guardian run over it: {said}");
    std::fs::write(rig.dir.join("allowed"), "").unwrap();
    rig.wait_paid();
    assert_eq!(trees(), [false; 3]);
}

#[test]
fn what_destroys_is_held_back_while_a_newer_one_still_runs_and_runs_when_that_is_done() {
    for killed in [true, false] {
        let rig = Rig::new("busy");
        let mut child = rig.start("busy", "left");
        if killed {
            // A cleanup that its owner has begun dies with the owner, and is begun again.
            child.kill().unwrap();
        }
        std::fs::write(rig.dir.join("allowed"), "").unwrap();
        wait_until("both trees are removed", || !rig.dir.join("busy").exists());
        if !killed {
            wait_until("nothing is owed", || {
                let run = Run::open(&rig.runs()[0]).unwrap();
                run.journal.scan().unwrap().open().next().is_none()
            });
            child.kill().unwrap();
        }
        child.wait().unwrap();
        rig.wait_paid();
    }
}

#[test]
fn what_destroys_waits_for_what_a_cut_scope_within_owes_on_the_lane_and_for_tasks_of_its_own() {
    let rig = Rig::new("mounted-elsewhere");
    let output = rig.command("mounted-elsewhere").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "false\nfalse\n", "{said}");
    assert!(said.contains("held back: #"), "{said}");
    std::fs::write(rig.dir.join("allowed"), "").unwrap();
    rig.wait_paid();
    assert!(!rig.dir.join("mounted-2").exists());
}

#[test]
fn refused_early_it_is_left_alone_until_its_scope_is_left() {
    let rig = Rig::new("early");
    assert_eq!(run(&rig, "early").0, "true\ntrue\ntrue\nfalse\n");
    rig.wait_paid();
}

#[test]
fn a_pile_of_a_scope_that_was_left_is_around_nothing() {
    let rig = Rig::new("piles");
    let output = rig.command("piles").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "false\n", "{said}");
    assert!(output.status.success() && !said.contains("held back"), "{said}");
    rig.wait_paid();
}

#[test]
fn what_a_scope_has_adopted_is_held_back_by_what_that_takes_on_later() {
    let rig = Rig::new("adopted");
    let (_, said) = run(&rig, "adopted");
    let trees = || ["adopted-1", "adopted-2", "adopted-3"].map(|name| rig.dir.join(name).exists());
    assert_eq!((trees(), said.matches("held back: #").count()), ([true; 3], 3), "{said}");
    assert!(!rig.dir.join("free").exists(), "what the scope had taken on before comes after: {said}");
    allow(&rig);
    rig.wait_paid();
    assert_eq!(trees(), [false; 3]);
}

#[test]
fn what_waits_can_still_be_disarmed() {
    let rig = Rig::new("busy-disarmed");
    assert_eq!(run(&rig, "busy-disarmed").0, "true\ntrue\n");
    rig.wait_paid();
    assert!(rig.dir.join("busy").exists());
}

#[test]
fn what_destroys_does_not_wait_for_what_can_only_come_after_it() {
    let rig = Rig::new("worker");
    let (told, said) = run(&rig, "worker");
    assert_eq!((told.as_str(), said.contains("held back")), ("false false\n", false), "{said}");
    rig.wait_paid();
}

#[test]
fn a_task_is_not_within_the_scope_that_its_spawner_was_in() {
    let rig = Rig::new("outlived");
    let (told, said) = run(&rig, "outlived");
    assert_eq!((told.as_str(), said.contains("held back")), ("false\n", false), "{said}");
    rig.wait_paid();
}

#[test]
fn who_waits_leaves_the_only_thread_to_what_it_waits_for() {
    let rig = Rig::new("one-thread");
    let (_, said) = run(&rig, "one-thread");
    assert!(!said.contains("held back"), "{said}");
    assert!(!rig.dir.join("thread-1").exists() && !rig.dir.join("thread-2").exists());
    rig.wait_paid();
}

#[test]
fn a_program_leaves_what_something_that_lives_on_may_need_to_its_guardian() {
    let rig = Rig::new("lives-on");
    let (told, said) = run(&rig, "lives-on");
    assert_eq!(told, "true\ntrue\n", "{said}");
    assert_eq!(said.matches("left to the next payer: #").count(), 4, "{said}");
    assert!(!said.contains("held back") && !said.contains("FAILED"), "{said}");
    allow(&rig);
    rig.wait_paid();
    assert!(!rig.dir.join("lives-2").exists());
}

#[test]
fn a_disarm_that_the_journal_refuses_is_said_and_both_are_paid_in_order_later() {
    let rig = Rig::new("refused");
    let (told, said) = run(&rig, "refused");
    assert_eq!(told, "false\ntrue\n", "{said}");
    assert!(said.contains("the disarm of") && said.contains("held back: #"), "{said}");
    allow(&rig);
    rig.wait_paid();
    assert!(!rig.dir.join("refused").exists());
}

#[test]
fn of_many_scopes_around_the_innermost_are_put_on_record_whatever_their_numbers() {
    let rig = Rig::new("deep");
    let mut child = rig.start("deep", "ready");
    let run = Run::open(&rig.runs()[0]).unwrap();
    let entry = run.journal.scan().unwrap().entries[0].clone();
    let within = Call::from_bytes(&entry.body).unwrap().within;
    // 152 in all, its own not counted: the numbers of the inner ones are below that of the outermost.
    assert_eq!(within.len(), 100);
    assert!(within.is_sorted() && within.iter().all(|scope| *scope < entry.scope), "{within:?}");
    assert!(entry.scope - within[0] <= 100, "{within:?} around {}", entry.scope);
    child.kill().unwrap();
    child.wait().unwrap();
    allow(&rig);
    rig.wait_paid();
}

#[test]
fn however_much_a_scope_has_adopted_it_is_still_around_what_is_within() {
    let rig = Rig::new("swamped");
    let (_, said) = run(&rig, "swamped");
    let trees = || ["swamped-1", "swamped-2"].map(|name| rig.dir.join(name).exists());
    assert_eq!(trees(), [true; 2], "{said}");
    allow(&rig);
    rig.wait_paid();
    assert_eq!(trees(), [false; 2]);
}

#[test]
fn what_has_given_up_is_not_done_and_holds_back_what_destroys() {
    let rig = Rig::new("parked");
    let (_, said) = run(&rig, "parked");
    let trees = ["parked-1", "parked-2", "parked-3"].map(|name| rig.dir.join(name).exists());
    assert_eq!((trees, said.matches("held back: #").count()), ([true; 3], 3), "{said}");
    rig.guardians().into_iter().for_each(|pid| rig::kill(pid, libc::SIGKILL));
}

#[test]
fn an_async_scope_that_is_polled_by_hand_pays_as_well() {
    let rig = Rig::new("by-hand");
    let (told, said) = run(&rig, "by-hand");
    assert_eq!(told, "true\n", "{said}");
    assert!(!rig.dir.join("by-hand").exists() && !said.contains("held back"), "{said}");
    rig.wait_paid();
}

#[test]
fn on_a_runtime_that_goes_away_each_takes_its_turn_all_the_same() {
    let rig = Rig::new("cancelled");
    let (_, said) = run(&rig, "cancelled");
    assert!(said.contains("owes.unmount: ") && said.contains("held back: #"), "{said}");
    assert!(!said.contains("was cancelled") && rig.dir.join("cancelled").exists(), "{said}");
    allow(&rig);
    rig.wait_paid();
    assert!(!rig.dir.join("cancelled").exists());
}

#[test]
fn what_an_outer_scope_owes_is_not_within_an_inner_one() {
    let rig = Rig::new("outer-fails");
    let (_, said) = run(&rig, "outer-fails");
    assert!(!rig.dir.join("inner").exists(), "{said}");
    allow(&rig);
    rig.wait_paid();
}

#[test]
fn what_was_handed_to_a_scope_that_is_cut_is_waited_for() {
    let rig = Rig::new("handed-to-cut");
    let (_, said) = run(&rig, "handed-to-cut");
    assert!(!said.contains("held back") && !rig.dir.join("handed").exists(), "{said}");
    rig.wait_paid();
}
