//! A run of the boot before, and two that would pay it: one is enough.

mod support;

use std::time::Duration;

use epilogue_guardian::*;
use epilogue_journal::{Journal, NewMeta, ProcessId, Record, Tier};
use support::{scratch, wait_until};

#[test]
fn of_two_that_pay_after_a_reboot_the_second_finds_the_first_at_it() {
    let dir = scratch("reboot");
    let run = dir.join("run");
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&run).unwrap();
    for file in ["lock", "alive"] {
        std::fs::write(run.join(file), "").unwrap();
    }
    let meta = NewMeta {
        boot_id: "the boot before".into(),
        pid_namespace: pid_namespace(),
        uid: effective_uid(),
        ..NewMeta::default()
    };
    let journal = Journal::create(&run.join("journal"), meta, true).unwrap();
    journal.set_owner(ProcessId { pid: 4242, start: 7 }).unwrap();
    let script = format!("cd {}; echo begun >> log; until [ -e go ]; do sleep 0.01; done", dir.display());
    let call = Call::of(&RunCommand::new(["sh", "-c", &script]).unwrap()).unwrap().to_bytes().unwrap();
    journal.register(&Record { scope: 1, time_ms: 0, body: &call, tier: Tier::Process }).unwrap();
    drop(journal);
    let pay = || recover_run(Run::open(&run).unwrap(), &Options::of(Runner::Recover), Duration::ZERO);
    std::thread::scope(|s| {
        let first = s.spawn(pay);
        wait_until("it is at it", || dir.join("log").exists());
        assert_eq!(pay().unwrap(), Recovered::Busy);
        std::fs::write(dir.join("go"), "").unwrap();
        assert!(matches!(first.join().unwrap().unwrap(), Recovered::Paid(report) if report.ran.len() == 1));
    });
    assert_eq!(std::fs::read_to_string(dir.join("log")).unwrap(), "begun\n");
    std::fs::remove_dir_all(&dir).unwrap();
}
