//! Section E: what skips defers in Go. Whole programs are in `crates/process/tests/leaving.rs` and
//! `signals.rs`; here is what can be seen from inside.

use epilogue::{catch, defer, guard, lane};

use crate::{Log, raise};

#[test]
fn a_panic_in_another_task_runs_its_defers_and_leaves_ours_alone() {
    let (tell, told) = std::sync::mpsc::channel();
    let log = Log::default();
    {
        defer!(log.add("ours"));
        let theirs = std::thread::spawn(move || {
            let _told = guard(tell, |tell| tell.send("theirs").unwrap());
            raise("boom");
        });
        assert!(theirs.join().is_err());
    }
    assert_eq!((told.recv().unwrap(), log.told().as_str()), ("theirs", "ours"));
}

#[test]
fn a_foreign_call_that_catches_loses_no_defer() {
    let log = Log::default();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        defer!(log.add("ran"));
        raise("boom");
    }));
    assert!(caught.is_err() && catch(|| ()).is_ok());
    assert_eq!(log.told(), "ran");
}

#[test]
fn a_future_left_half_way_loses_no_cleanup() {
    let (tell, told) = std::sync::mpsc::channel();
    let mut future = Box::pin(epilogue::async_scope(async move |s| {
        s.defer(async move |_| tell.send("ran").unwrap());
        std::future::pending::<()>().await;
    }));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    assert!(lane::wait(std::time::Duration::from_secs(10)));
    assert_eq!(told.recv().unwrap(), "ran");
}
