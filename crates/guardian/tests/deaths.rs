//! Attempts that nobody has survived, told from those that failed.

mod support;

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use epilogue_guardian::*;
use epilogue_journal::{Journal, NewMeta, ProcessId, Record, Tier};
use support::scratch;

/// A run of an owner that is dead, with one command to pay.
fn owed(run: &Path, command: [&str; 1]) -> (Run, u64) {
    std::fs::DirBuilder::new().mode(0o700).create(run).unwrap();
    for file in ["lock", "alive"] {
        std::fs::write(run.join(file), "").unwrap();
    }
    let meta = NewMeta {
        boot_id: boot_id(),
        pid_namespace: pid_namespace(),
        uid: effective_uid(),
        ..NewMeta::default()
    };
    let journal = Journal::create(&run.join("journal"), meta, true).unwrap();
    journal.set_owner(ProcessId { pid: u32::MAX >> 1, start: 1 }).unwrap();
    let call = Call::of(&RunCommand::new(command).unwrap()).unwrap().to_bytes().unwrap();
    let record = Record { scope: 1, time_ms: 0, body: &call, tier: Tier::Process };
    let id = journal.register(&record).unwrap().id();
    drop(journal);
    (Run::open(run).unwrap(), id)
}

#[test]
fn a_cleanup_that_kills_its_payers_is_parked_also_after_it_had_failed_and_was_put_back() {
    let dir = scratch("deaths");
    let (run, id) = owed(&dir.join("run"), ["false"]);
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
