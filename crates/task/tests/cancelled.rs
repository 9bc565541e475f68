//! Tasks that are cancelled with their scope. One test alone asks for what is reported, which is counted for the whole
//! process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use epilogue_scope::{guard, report};
use epilogue_task::async_scope;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

fn raise<T>(text: &'static str) -> T {
    std::panic::resume_unwind(Box::new(text))
}

async fn wait_until(mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < until);
        // Not by polling on and on: under valgrind, one thread at a time, nobody else would come to anything.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_tasks_are_dropped_newest_first_and_one_whose_drop_panics_is_reported_and_keeps_no_other() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (theirs, parked) = (log.clone(), Arc::new(tokio::sync::Barrier::new(4)));
    let joined = tokio::spawn(async_scope(async move |s| {
        for name in ["oldest", "panics", "newest"] {
            let (log, parked) = (theirs.clone(), parked.clone());
            drop(s.spawn(name, async move {
                let _owed = guard((), move |()| {
                    log.lock().unwrap().push(name);
                    if name == "panics" {
                        raise::<()>("in its drop");
                    }
                });
                parked.wait().await;
                std::future::pending::<()>().await;
            }));
        }
        parked.wait().await;
        raise::<()>("the body");
    }))
    .await;
    assert!(joined.is_err());
    // Nothing is left of them in the runtime.
    wait_until(|| Handle::current().metrics().num_alive_tasks() == 0).await;
    assert_eq!(*log.lock().unwrap(), ["newest", "panics", "oldest"]);
    assert_eq!(report::count(), 1, "the one that panicked");
}

#[tokio::test]
async fn what_a_task_owes_that_was_never_polled_is_paid_before_what_is_older_than_the_task() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (outer, inner) = (log.clone(), log.clone());
    let mut begun = Box::pin(async_scope(async move |own| {
        own.defer(async move |_| {
            tokio::task::yield_now().await;
            inner.lock().unwrap().push("the worker rolls back");
        });
        std::future::pending::<()>().await;
    }));
    std::future::poll_fn(|cx| std::task::Poll::Ready(begun.as_mut().poll(cx).is_pending())).await;
    let joined = tokio::spawn(async_scope(async move |s| {
        s.defer(async move |_| outer.lock().unwrap().push("the database closes"));
        drop(s.spawn("goes on with it", begun));
        raise::<()>("the body");
    }))
    .await;
    assert!(joined.is_err());
    assert_eq!(*log.lock().unwrap(), ["the worker rolls back", "the database closes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_not_finished_before_what_it_holds_is_dropped() {
    let dropped = Arc::new(AtomicBool::new(false));
    let theirs = dropped.clone();
    async_scope(async |s| {
        let (ready, is_ready) = oneshot::channel();
        let task = s.spawn("holds", async move {
            let _slow = guard((), move |()| {
                std::thread::sleep(std::time::Duration::from_millis(30));
                theirs.store(true, Ordering::Release);
            });
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        is_ready.await.unwrap();
        task.abort();
        wait_until(|| task.is_finished()).await;
        assert!(dropped.load(Ordering::Acquire));
    })
    .await;
}

#[tokio::test]
async fn a_task_that_was_handed_over_is_cancelled_with_the_scope_that_has_it() {
    let (tell, told) = oneshot::channel::<()>();
    let joined = tokio::spawn(async {
        async_scope(async |server| {
            let to = server.handle();
            async_scope(async |connection| {
                let mut flush = connection.spawn("flush", async move {
                    let _tell = tell;
                    std::future::pending::<()>().await;
                });
                flush.hand_over(&to).unwrap();
            })
            .await;
            raise::<()>("the server");
        })
        .await;
    })
    .await;
    assert!(joined.is_err() && told.await.is_err());
    wait_until(|| Handle::current().metrics().num_alive_tasks() == 0).await;
}
