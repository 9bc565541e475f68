//! Tasks of a scope: they cannot outlive it, their panics are isolated, their cleanups run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use epilogue_scope::{guard, report, task::exit_task};
use epilogue_task::{TaskError, TaskPanic, async_scope, on_task_panic};
use tokio::sync::oneshot;

fn raise<T>(text: &'static str) -> T {
    std::panic::resume_unwind(Box::new(text))
}

#[tokio::test]
async fn a_scope_that_returns_awaits_its_tasks() {
    let (tell, told) = oneshot::channel();
    let done = Arc::new(AtomicUsize::new(0));
    let theirs = done.clone();
    async_scope(async |s| {
        drop(s.spawn("slow", async move {
            told.await.unwrap();
            theirs.fetch_add(1, Ordering::Relaxed);
        }));
        // Only after the body has returned can it end.
        s.defer(async move |_| tell.send(()).unwrap());
    })
    .await;
    assert_eq!(done.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_scope_that_panics_cancels_its_tasks_and_awaits_their_cleanups() {
    let tidied = Arc::new(AtomicUsize::new(0));
    let theirs = tidied.clone();
    let (ready, is_ready) = oneshot::channel();
    let outcome = tokio::spawn(async_scope(async move |s| {
        drop(s.spawn("worker", async move {
            let _guard = guard((), move |()| {
                theirs.fetch_add(1, Ordering::Relaxed);
            });
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        }));
        is_ready.await.unwrap();
        raise::<()>("the body");
    }))
    .await;
    assert!(outcome.is_err());
    assert_eq!(tidied.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_panic_in_one_task_leaves_the_others_alone_and_is_told_to_whoever_awaits() {
    let (one, other) = async_scope(async |s| {
        let one = s.spawn("one", async { raise::<u32>("boom") });
        let other = s.spawn("other", async { 5 });
        (one.await, other.await)
    })
    .await;
    assert!(matches!(one, Err(TaskError::Panicked { message }) if message == "boom"));
    assert_eq!(other.unwrap(), 5);
}

#[tokio::test]
async fn a_panic_that_nobody_awaits_is_reported() {
    let before = report::count();
    async_scope(async |s| drop(s.spawn("lonely", async { raise::<()>("unheard") }))).await;
    assert!(report::count() > before);
}

#[tokio::test]
async fn a_task_that_exits_says_so() {
    let told = async_scope(async |s| s.spawn("leaver", async { exit_task() }).await).await;
    assert!(matches!(told, Err(TaskError::Exited)));
}

#[tokio::test]
async fn an_aborted_task_says_so() {
    let told = async_scope(async |s| {
        let task = s.spawn("aborted", std::future::pending::<()>());
        task.abort();
        task.await
    })
    .await;
    assert!(matches!(told, Err(TaskError::Cancelled)));
}

#[tokio::test]
async fn a_task_handed_over_may_outlive_its_scope_but_not_the_other_one() {
    let (tell, told) = oneshot::channel::<()>();
    let done = Arc::new(AtomicUsize::new(0));
    let theirs = done.clone();
    async_scope(async |outer| {
        let mut task = async_scope(async |inner| {
            let mut task = inner.spawn("moved", async move {
                told.await.unwrap();
                theirs.fetch_add(1, Ordering::Relaxed);
            });
            task.hand_over(&outer.handle()).unwrap();
            Some(task)
        })
        .await
        .unwrap();
        assert!(!task.is_finished());
        assert_eq!(done.load(Ordering::Relaxed), 0);
        tell.send(()).unwrap();
        (&mut task).await.unwrap();
    })
    .await;
    assert_eq!(done.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn under_the_policy_to_stop_the_program_is_told_and_other_cleanups_run() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let theirs = told.clone();
    on_task_panic(Some(Arc::new(move |task, message| {
        theirs.lock().unwrap().push(format!("{task}: {message}"));
    })));
    let tidied = Arc::new(AtomicUsize::new(0));
    let counted = tidied.clone();
    async_scope(async |s| {
        s.defer(async move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let _ = s.spawn_with("fatal", TaskPanic::Stop, async { raise::<()>("boom") }).await;
    })
    .await;
    on_task_panic(None);
    assert_eq!(*told.lock().unwrap(), ["fatal: boom"]);
    assert_eq!(tidied.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_scope_that_is_dropped_while_it_awaits_its_tasks_cancels_them() {
    struct Gone(Option<oneshot::Sender<()>>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    let (tell, told) = oneshot::channel();
    let gone = Gone(Some(tell));
    let cut = async_scope(async |s| {
        drop(s.spawn("for ever", async move {
            let _gone = gone;
            std::future::pending::<()>().await;
        }));
        // The body returns: the scope awaits the task.
    });
    tokio::time::timeout(std::time::Duration::from_millis(5), cut).await.unwrap_err();
    told.await.unwrap();
    epilogue_task::lane::drained().await;
}

#[tokio::test]
async fn what_a_cancelled_task_owes_is_paid_before_what_is_older_than_the_task() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (outer, inner) = (log.clone(), log.clone());
    let (ready, is_ready) = oneshot::channel();
    let joined = tokio::spawn(async_scope(async move |s| {
        s.defer(async move |_| outer.lock().unwrap().push("the database closes"));
        drop(s.spawn(
            "worker",
            async_scope(async move |own| {
                own.defer(async move |_| {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    inner.lock().unwrap().push("the worker rolls back");
                });
                ready.send(()).unwrap();
                std::future::pending::<()>().await;
            }),
        ));
        is_ready.await.unwrap();
        raise::<()>("the body");
    }))
    .await;
    assert!(joined.is_err());
    assert_eq!(*log.lock().unwrap(), ["the worker rolls back", "the database closes"]);
}

#[tokio::test]
async fn a_task_that_cannot_be_handed_over_stays_where_it_is() {
    let closed = async_scope(async |s| s.handle()).await;
    let (stop, stopped) = oneshot::channel::<()>();
    // The scope awaits the worker after the cleanup that stops it, as registered; not before.
    let scope = async_scope(async move |s| {
        let mut worker = s.spawn("worker", async move { stopped.await.unwrap() });
        s.defer(async move |_| stop.send(()).unwrap());
        worker.hand_over(&closed).unwrap_err();
    });
    tokio::time::timeout(std::time::Duration::from_secs(10), scope).await.unwrap();
}

#[tokio::test]
async fn a_handle_to_a_cleanup_is_nothing_to_another_scope() {
    async_scope(async |one| {
        let ran = Arc::new(AtomicUsize::new(0));
        let theirs = ran.clone();
        let first = one.defer(async |_| ());
        async_scope(async |other| {
            other.defer(async move |_| {
                theirs.fetch_add(1, Ordering::Relaxed);
            });
            assert!(!other.disarm(first));
        })
        .await;
        assert_eq!(ran.load(Ordering::Relaxed), 1);
    })
    .await;
}

#[tokio::test]
async fn a_panic_of_a_task_whose_handle_is_dropped_unread_is_reported() {
    let before = report::count();
    async_scope(async |s| {
        let task = s.spawn("unread", async { raise::<()>("unread") });
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        drop(task);
    })
    .await;
    assert!(report::count() > before);
}

#[test]
fn a_limit_without_a_clock_does_not_lose_the_cleanup() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let theirs = done.clone();
    runtime.block_on(async_scope(async move |s| {
        s.defer_within(std::time::Duration::from_secs(1), async move |_| {
            tokio::task::yield_now().await;
            theirs.fetch_add(1, Ordering::Relaxed);
        });
    }));
    assert_eq!(done.load(Ordering::Relaxed), 1);
}

#[test]
fn what_a_cancelled_task_drops_may_spawn_whoever_pays() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (tell, told) = oneshot::channel();
    let (go, gone) = oneshot::channel::<()>();
    let mut scope = Box::pin(async_scope(async move |s| {
        let holds = guard((), move |()| {
            drop(tokio::spawn(async move { tell.send(()).unwrap() }));
        });
        drop(s.spawn("worker", async move {
            let _holds = holds;
            std::future::pending::<()>().await;
        }));
        gone.await.unwrap();
        raise::<()>("the body");
    }));
    let mut poll = || {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        epilogue_scope::catch(|| scope.as_mut().poll(&mut cx))
    };
    {
        let _entered = runtime.enter();
        assert!(poll().is_ok_and(|polled| polled.is_pending()));
    }
    go.send(()).unwrap();
    // From here on it is paid outside of every runtime.
    while poll().is_ok_and(|polled| polled.is_pending()) {
        std::thread::yield_now();
    }
    runtime.block_on(told).unwrap();
}

#[tokio::test]
async fn a_task_is_finished_when_its_future_is_gone() {
    let (tell, told) = oneshot::channel::<()>();
    async_scope(async |s| {
        let mut task = s.spawn("waits", async move { told.await.unwrap() });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        tell.send(()).unwrap();
        (&mut task).await.unwrap();
        assert!(task.is_finished());
    })
    .await;
}
