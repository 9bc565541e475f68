//! `#[scoped]` on an `async fn`: the same on every ending, and on cancellation.

use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use epilogue::{CleanupErrors, catch, defer, defer_err, defer_ok, describe, keep, lane, scoped};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

fn seen(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

#[scoped]
async fn work(log: &Log, wait: bool) -> Result<u32, String> {
    defer!(note(log, "guard 1"));
    defer!(|end| note(log, format!("aware {:?}", end.how())));
    let own = log.clone();
    defer!(async |how| {
        tokio::task::yield_now().await;
        note(&own, format!("async 1 {how:?}"));
    });
    for turn in 0..2 {
        let own = log.clone();
        defer!(move || note(&own, format!("loop {turn}")));
    }
    for turn in 0..2 {
        let own = log.clone();
        defer!(async move { note(&own, format!("async loop {turn}")) });
    }
    defer!(note(log, "guard 2"));
    if wait {
        std::future::pending::<()>().await;
    }
    tokio::task::yield_now().await;
    Ok(3)
}

#[tokio::test]
async fn on_return_everything_runs_newest_first() {
    let log = Log::default();
    assert_eq!(work(&log, false).await, Ok(3));
    assert_eq!(
        seen(&log),
        [
            "guard 2",
            "async loop 1",
            "async loop 0",
            "loop 1",
            "loop 0",
            "async 1 Returned",
            "aware Returned",
            "guard 1"
        ]
    );
}

#[tokio::test]
async fn on_cancellation_the_guards_run_at_once_and_the_async_ones_on_the_lane() {
    let log = Log::default();
    tokio::time::timeout(Duration::from_millis(5), work(&log, true)).await.unwrap_err();
    lane::drained().await;
    let seen = seen(&log);
    let (asyncs, guards): (Vec<_>, Vec<_>) = seen.iter().cloned().partition(|line| line.contains("async"));
    assert_eq!(guards, ["guard 2", "loop 1", "loop 0", "aware Cancelled", "guard 1"]);
    assert_eq!(asyncs, ["async loop 1", "async loop 0", "async 1 Cancelled"]);
}

#[test]
fn without_any_runtime_a_dropped_future_is_cleaned_up_after() {
    let log = Log::default();
    let theirs = log.clone();
    let mut future = Box::pin(async move { work(&theirs, true).await });
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(future);
    assert!(lane::wait(Duration::from_secs(10)));
    assert_eq!(seen(&log).len(), 8);
}

#[tokio::test]
async fn a_panic_is_recovered_into_a_value() {
    #[scoped]
    async fn divide(by: u32) -> Result<u32, String> {
        defer!(|end| end.recover_with(|panic| Err(describe(&*panic))));
        tokio::task::yield_now().await;
        Ok(100 / by)
    }
    assert_eq!(divide(5).await, Ok(20));
    assert_eq!(divide(0).await, Err("attempt to divide by zero".into()));
}

#[tokio::test]
async fn defer_err_and_defer_ok_sync_and_async() {
    #[scoped]
    async fn work(log: &Log, fail: bool) -> Result<(), String> {
        let (one, two) = (log.clone(), log.clone());
        defer_err!(note(log, "undo"));
        defer_ok!(note(log, "done"));
        defer_err!(async { note(&one, "undo async") });
        defer_ok!(async { note(&two, "done async") });
        if fail {
            Err("no")?
        }
        Ok(())
    }
    let log = Log::default();
    work(&log, true).await.unwrap_err();
    assert_eq!(seen(&log), ["undo async", "undo"]);
    work(&log, false).await.unwrap();
    assert_eq!(seen(&log), ["done async", "done"]);
}

#[tokio::test]
async fn errors_are_joined() {
    #[scoped]
    async fn work() -> Result<u8, CleanupErrors> {
        defer!(Err::<(), _>("guard"));
        defer!(async { Err::<(), _>("async") });
        let _kept = keep!(String::from("x"), |_| Err::<(), _>("kept"));
        tokio::task::yield_now().await;
        Ok(1)
    }
    let errors = work().await.unwrap_err();
    let told: Vec<_> = errors.errors().iter().map(|error| error.error.to_string()).collect();
    assert_eq!(told, ["kept", "async", "guard"]);
}

#[tokio::test]
async fn a_panic_in_the_body_runs_everything_and_goes_on() {
    #[scoped]
    async fn work(log: Log) {
        let own = log.clone();
        defer!(async { note(&own, "async") });
        defer!(note(&log, "guard"));
        tokio::task::yield_now().await;
        std::panic::resume_unwind(Box::new("boom"));
    }
    let log = Log::default();
    let joined = tokio::spawn(work(log.clone())).await.unwrap_err();
    assert_eq!(describe(&*joined.into_panic()), "boom");
    assert_eq!(seen(&log), ["guard", "async"]);
}

struct Client {
    log: Log,
}

impl Client {
    #[scoped]
    async fn call(&mut self, path: &str) -> Result<&str, Box<dyn std::error::Error + Send + Sync>> {
        defer!(note(&self.log, "called"));
        let log = self.log.clone();
        defer!(async move { note(&log, "released") });
        tokio::task::yield_now().await;
        if path.is_empty() {
            Err("no path")?
        }
        Ok("answer")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_may_borrow_and_their_future_may_be_sent() {
    let log = Log::default();
    let theirs = log.clone();
    tokio::spawn(async move {
        let mut client = Client { log: theirs };
        assert_eq!(client.call("/").await.unwrap(), "answer");
        assert!(client.call("").await.is_err());
    })
    .await
    .unwrap();
    assert_eq!(seen(&log), ["released", "called", "released", "called"]);
}

#[tokio::test]
async fn a_local_future_may_hold_what_is_not_send() {
    #[scoped(local)]
    async fn work(log: std::rc::Rc<Log>) {
        for turn in 0..2 {
            let own = log.clone();
            defer!(move || note(&own, format!("{turn}")));
        }
        tokio::task::yield_now().await;
    }
    let log = Log::default();
    work(std::rc::Rc::new(log.clone())).await;
    assert_eq!(seen(&log), ["1", "0"]);
}

#[tokio::test]
async fn catch_does_not_disturb_a_future() {
    let log = Log::default();
    assert!(catch(|| ()).is_ok());
    assert_eq!(work(&log, false).await, Ok(3));
}

#[tokio::test]
async fn what_is_borrowed_mutably_may_be_returned_and_what_is_kept_may_be_awaited() {
    struct Pool(u32);
    impl Pool {
        #[scoped]
        async fn next(&mut self) -> Result<&mut u32, CleanupErrors> {
            defer!(Ok::<(), std::io::Error>(()));
            tokio::task::yield_now().await;
            self.0 += 1;
            Ok(&mut self.0)
        }
    }
    #[scoped]
    async fn kept() -> Result<u32, CleanupErrors> {
        let mut all = 0;
        for turn in 0..3 {
            let value = keep!(std::future::ready(turn).await, |_| ());
            tokio::task::yield_now().await;
            all += *value;
        }
        Ok(all)
    }
    assert_eq!(*Pool(1).next().await.unwrap(), 2);
    assert_eq!(tokio::spawn(kept()).await.unwrap().unwrap(), 3);
}

#[tokio::test]
async fn the_place_of_an_error_is_the_users_line() {
    #[scoped]
    async fn work() -> Result<(), CleanupErrors> {
        defer!(async { Err::<(), _>("here") }); // LINE 1
        defer!(async |_| Err::<(), _>("here")); // LINE 2
        for _ in 0..1 {
            defer_ok!(async { Err::<(), _>("here") }); // LINE 3
        }
        Ok(())
    }
    let line =
        |end: &str| include_str!("scoped_async.rs").lines().position(|line| line.ends_with(end)).unwrap() + 1;
    let places: Vec<_> = work().await.unwrap_err().errors().iter().map(|error| error.place.clone()).collect();
    let expected =
        ["// LINE 3", "// LINE 2", "// LINE 1"].map(|end| format!("scoped_async.rs:{}", line(end)));
    for (place, expected) in places.iter().zip(&expected) {
        assert!(place.ends_with(expected), "{places:?} {expected:?}");
    }
    assert_eq!(places.len(), 3);
}
