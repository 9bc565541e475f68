//! A run of the boot before, and two that would pay it: one is enough.

mod support;

use std::time::Duration;

use epilogue_guardian::*;
use support::{dead_run, scratch, wait_until};

#[test]
fn of_two_that_pay_after_a_reboot_the_second_finds_the_first_at_it() {
    let dir = scratch("reboot");
    let run = dir.join("run");
    let script = format!("cd {}; echo begun >> log; until [ -e go ]; do sleep 0.01; done", dir.display());
    dead_run(&run, "the boot before".into(), &["sh", "-c", &script]);
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
