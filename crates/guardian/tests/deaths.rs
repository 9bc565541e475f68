//! Attempts that nobody has survived, told from those that failed.

mod support;

use std::time::Duration;

use epilogue_guardian::*;
use support::{dead_run, scratch};

#[test]
fn a_cleanup_that_kills_its_payers_is_parked_also_after_it_had_failed_and_was_put_back() {
    let dir = scratch("deaths");
    let id = dead_run(&dir.join("run"), boot_id(), &["false"]);
    let run = Run::open(&dir.join("run")).unwrap();
    let pay = || {
        let run = Run::open(&run.dir).unwrap();
        match recover_run(run, &Options::of(Runner::Recover), Duration::ZERO).unwrap() {
            Recovered::Paid(report) => report,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pay().failed.len(), 1);
    let noted = || attempts(&run.dir).into_iter().map(|tried| tried.outcome).collect::<Vec<_>>();
    assert_eq!(noted(), ["failed"; 3]);
    assert!(retry(&run, id).unwrap() && noted().last().unwrap() == "retried");
    for _ in 0..3 {
        let generation = run.journal.take_over(this_process()).unwrap();
        assert!(run.journal.begin(generation, id).unwrap().is_some(), "and died of it");
    }
    let report = pay();
    assert_eq!(report.parked[0].why.as_deref(), Some("3 payers died while they ran it"));
    assert_eq!(noted()[4..], ["parked"], "and was not begun again");
    assert!(drop_record(&run, id).unwrap() && !drop_record(&run, id).unwrap());
    assert_eq!(noted().last().unwrap(), "dropped");
    std::fs::remove_dir_all(&dir).unwrap();
}
