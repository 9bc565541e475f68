//! What the ways have in common.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use epilogue_task::async_scope;
use tokio::runtime::{Builder, Runtime};

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub(crate) fn workers() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

pub(crate) fn say(what: &str) {
    println!("{what}");
}

/// Owes two async cleanups that take their time, and never ends.
pub(crate) async fn owing() {
    async_scope(async |s| {
        s.defer(async |how| say(&format!("async last, {how:?}")));
        s.defer(async |_| {
            tokio::time::sleep(Duration::from_millis(30)).await;
            say("async first");
        });
        pending::<()>().await;
    })
    .await;
}

/// Polls a future once.
pub(crate) async fn once(mut future: Pin<Box<impl Future<Output = ()>>>) {
    poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

/// How many scopes hold something: seen from outside.
pub(crate) fn lane_scopes() -> usize {
    epilogue_scope::record::live_scopes().iter().filter(|scope| scope.pending.len() == 2).count()
}
