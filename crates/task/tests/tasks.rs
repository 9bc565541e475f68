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
