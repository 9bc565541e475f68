//! Async scopes: every ending, order, errors, limits, moving, running early.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_scope::{CleanupErrors, How, report, task::exit_task};
use epilogue_task::{async_scope, lane, try_async_scope};

type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, what: impl Into<String>) {
    log.lock().unwrap().push(what.into());
}

fn seen(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

fn raise<T>(text: &'static str) -> T {
    std::panic::resume_unwind(Box::new(text))
}

/// Registers three cleanups that yield in their middle.
fn owe_three(s: &epilogue_task::AsyncScope, log: &Log) {
    for number in 1..=3 {
        let log = log.clone();
        s.defer(async move |how| {
            note(&log, format!("begin {number} {how:?}"));
            tokio::task::yield_now().await;
            note(&log, format!("end {number}"));
        });
    }
}

fn three(how: How) -> Vec<String> {
    (1..=3).rev().flat_map(|n| [format!("begin {n} {how:?}"), format!("end {n}")]).collect()
}

#[tokio::test]
async fn on_return_they_run_one_after_the_other_newest_first() {
    let log = Log::default();
    let local = String::from("the body may borrow");
    let length = async_scope(async |s| {
        owe_three(s, &log);
        local.len()
    })
    .await;
    assert_eq!(length, local.len());
    assert_eq!(seen(&log), three(How::Returned));
}

#[tokio::test]
async fn on_error_they_see_a_failure_and_defer_err_runs() {
    let log = Log::default();
    let result: Result<(), CleanupErrors> = try_async_scope(async |s| {
        let (on_err, on_ok) = (log.clone(), log.clone());
        s.defer_err(async move |how| note(&on_err, format!("{how:?}")));
        s.defer_ok(async move |_| note(&on_ok, "must not run"));
        s.defer(async |_| Err::<(), _>("reported: the body's own error wins"));
        Err(CleanupErrors::new(vec![epilogue_scope::CleanupError::new("here", "own".into())]).unwrap())
    })
    .await;
    assert!(result.unwrap_err().to_string().ends_with("own"));
    assert_eq!(seen(&log), ["Failed"]);
}

#[tokio::test]
async fn on_panic_they_run_and_the_panic_goes_on() {
    let log = Log::default();
    let theirs = log.clone();
    let joined = tokio::spawn(async move {
        async_scope(async |s| {
            owe_three(s, &theirs);
            tokio::task::yield_now().await;
            raise::<()>("boom");
        })
        .await
    })
    .await;
    assert_eq!(epilogue_scope::describe(&*joined.unwrap_err().into_panic()), "boom");
    assert_eq!(seen(&log), three(How::Panicked));
}

#[tokio::test]
async fn panics_of_cleanups_join_the_chain_and_keep_none_from_running() {
    let log = Log::default();
    let caught = epilogue_task::isolated(Default::default(), async {
        async_scope(async |s| {
            owe_three(s, &log);
            s.defer(async |_| raise::<()>("second"));
            raise::<()>("first");
        })
        .await
    })
    .await
    .unwrap_err();
    assert_eq!(caught.chain().to_string(), "panic: first\n\tpanic: second");
    assert_eq!(seen(&log), three(How::Panicked));
}

#[tokio::test]
async fn a_task_exit_runs_them() {
    let log = Log::default();
    let caught = epilogue_task::isolated(Default::default(), async {
        async_scope(async |s| {
            owe_three(s, &log);
            exit_task()
        })
        .await
    })
    .await;
    assert!(caught.err().unwrap().chain().exits_task());
    assert_eq!(seen(&log), three(How::TaskExited));
}

#[tokio::test]
async fn cut_by_select_they_run_on_the_lane() {
    let log = Log::default();
    tokio::select! {
        biased;
        () = async_scope(async |s| {
            owe_three(s, &log);
            std::future::pending().await
        }) => unreachable!(),
        () = std::future::ready(()) => {}
    }
    lane::drained().await;
    assert_eq!(seen(&log), three(How::Cancelled));
}

#[tokio::test]
async fn cut_while_paying_the_one_that_was_running_goes_on_where_it_was() {
    let log = Log::default();
    let scope = async_scope(async |s| owe_three(s, &log));
    let mut scope = Box::pin(scope);
    // Two polls: the newest has begun, and waits in its middle.
    let first = std::future::poll_fn(|cx| std::task::Poll::Ready(scope.as_mut().poll(cx))).await;
    assert!(first.is_pending());
    assert_eq!(log.lock().unwrap().len(), 1);
    drop(scope);
    lane::drained().await;
    // The ending is the body's: it had returned.
    assert_eq!(seen(&log), three(How::Returned));
}

#[tokio::test]
async fn errors_are_joined_newest_first() {
    let result: Result<u8, CleanupErrors> = try_async_scope(async |s| {
        s.defer(async |_| Err::<(), _>("disk full"));
        s.defer(async |_| Err::<(), _>("pool stuck"));
        Ok(1)
    })
    .await;
    let errors = result.unwrap_err();
    let told: Vec<_> = errors.errors().iter().map(|error| error.error.to_string()).collect();
    assert_eq!(told, ["pool stuck", "disk full"]);
    assert!(errors.errors()[0].place.contains("scopes.rs:"));
}

#[tokio::test(start_paused = true)]
async fn one_that_overruns_its_limit_is_cut_and_named_and_the_next_one_runs() {
    let log = Log::default();
    let result: Result<(), CleanupErrors> = try_async_scope(async |s| {
        owe_three(s, &log);
        s.defer_within(Duration::from_secs(2), async |_| std::future::pending::<()>().await);
        Ok(())
    })
    .await;
    assert!(result.unwrap_err().to_string().contains("longer than its limit of 2s"));
    assert_eq!(seen(&log), three(How::Failed));
}

#[tokio::test]
async fn a_cleanup_may_register_and_spawn_on_the_scope_that_is_being_left() {
    let log = Log::default();
    async_scope(async |s| {
        let (last, handle) = (log.clone(), s.handle());
        s.defer(async move |_| note(&last, "last"));
        let (mine, later, task) = (log.clone(), log.clone(), log.clone());
        s.defer(async move |_| {
            note(&mine, "first");
            handle.defer(async move |_| note(&later, "registered meanwhile")).unwrap();
            drop(handle.spawn("late", async move { note(&task, "spawned meanwhile") }).unwrap());
        });
    })
    .await;
    assert_eq!(seen(&log), ["first", "spawned meanwhile", "registered meanwhile", "last"]);
}

#[tokio::test]
async fn a_closed_scope_says_so_and_drops_what_it_was_given() {
    let handle = async_scope(async |s| s.handle()).await;
    let token = Arc::new(());
    let theirs = token.clone();
    assert!(handle.defer(async move |_| drop(theirs)).is_err());
    assert_eq!(Arc::strong_count(&token), 1);
    assert!(handle.spawn("late", async {}).is_err());
}

#[tokio::test]
async fn disarmed_it_does_not_run_and_run_now_it_runs_once() {
    let log = Log::default();
    async_scope(async |s| {
        let (one, two) = (log.clone(), log.clone());
        let disarmed = s.defer(async move |_| note(&one, "must not run"));
        let now = s.defer(async move |how| note(&two, format!("{how:?}")));
        assert!(s.disarm(disarmed));
        assert!(!s.disarm(disarmed));
        assert!(s.run_now(now).await);
        assert!(!s.run_now(now).await);
        assert_eq!(s.pending(), 0);
    })
    .await;
    assert_eq!(seen(&log), ["Open"]);
}

#[tokio::test]
async fn everything_pending_can_be_handed_to_another_scope() {
    let log = Log::default();
    async_scope(async |outer| {
        let own = log.clone();
        outer.defer(async move |_| note(&own, "outer"));
        async_scope(async |inner| {
            owe_three(inner, &log);
            inner.hand_over(&outer.handle()).unwrap();
        })
        .await;
        note(&log, "inner left");
    })
    .await;
    let mut expected = vec!["inner left".to_owned()];
    expected.extend(three(How::Returned));
    expected.push("outer".into());
    assert_eq!(seen(&log), expected);
}

#[tokio::test]
async fn handing_over_to_a_closed_scope_leaves_everything_where_it_was() {
    let log = Log::default();
    let closed = async_scope(async |s| s.handle()).await;
    async_scope(async |s| {
        owe_three(s, &log);
        assert!(s.hand_over(&closed).is_err());
    })
    .await;
    assert_eq!(seen(&log), three(How::Returned));
}

#[tokio::test]
async fn a_hanging_cleanup_holds_only_its_own_scope() {
    let log = Log::default();
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let hanging = tokio::spawn(async_scope(async move |s| {
        s.defer(async |_| ());
        s.defer(async move |_| {
            begin.send(()).unwrap();
            let _ = released.await;
        });
    }));
    begun.await.unwrap();
    async_scope(async |s| owe_three(s, &log)).await;
    assert_eq!(seen(&log), three(How::Returned));
    hanging.abort();
    assert!(hanging.await.unwrap_err().is_cancelled());
    // It goes on on the lane, where it can be named and, at the exit, be left.
    let named = |job: &lane::Unfinished| job.left.iter().any(|place| place.contains("scopes.rs:"));
    while !lane::unfinished().iter().any(named) {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
}

#[tokio::test]
async fn what_goes_wrong_on_the_lane_is_reported_and_counted() {
    let before = report::count();
    let log = Log::default();
    let cut = async_scope(async |s| {
        owe_three(s, &log);
        s.defer(async |_| Err::<(), _>("nobody can return it"));
        s.defer(async |_| raise::<()>("nobody can catch it"));
        std::future::pending::<()>().await;
    });
    tokio::time::timeout(Duration::from_millis(1), cut).await.unwrap_err();
    while log.lock().unwrap().len() < 6 {
        tokio::task::yield_now().await;
    }
    assert!(report::count() >= before + 2);
}

#[tokio::test]
async fn an_async_scope_is_on_the_list_of_live_scopes() {
    epilogue_scope::record::list_live_scopes(true);
    let mut context = epilogue_scope::record::Context::of_task("outbox");
    context.trace = Some(0xfeed);
    let task = tokio::spawn(epilogue_task::isolated(
        context,
        async_scope(async |s| {
            s.defer(async |_| ());
            tokio::task::yield_now().await;
            std::future::pending::<()>().await;
        }),
    ));
    let found = loop {
        tokio::task::yield_now().await;
        let all = epilogue_scope::record::live_scopes();
        if let Some(scope) =
            all.into_iter().find(|scope| &*scope.task == "outbox" && !scope.pending.is_empty())
        {
            break scope;
        }
    };
    assert!(found.function.contains("an_async_scope_is_on_the_list"), "{}", found.function);
    assert!(found.pending[0].place.contains("scopes.rs:"));
    assert_eq!(found.trace, Some(0xfeed));
    task.abort();
    epilogue_scope::record::list_live_scopes(false);
}

#[tokio::test]
async fn the_error_of_a_newer_cleanup_is_a_failure_to_the_older_ones() {
    let log = Log::default();
    let result: Result<(), CleanupErrors> = try_async_scope(async |s| {
        let (err, ok) = (log.clone(), log.clone());
        s.defer_err(async move |how| note(&err, format!("rolled back {how:?}")));
        s.defer_ok(async move |_| note(&ok, "must not run"));
        s.defer(async |_| Err::<(), _>("commit"));
        Ok(())
    })
    .await;
    assert!(result.is_err());
    assert_eq!(seen(&log), ["rolled back Failed"]);
}

#[tokio::test]
async fn a_panic_before_the_body_makes_its_future_is_a_panic_of_the_body() {
    fn body(s: &epilogue_task::AsyncScope, log: &Log) -> impl Future<Output = ()> + use<> {
        owe_three(s, log);
        raise::<()>("before the future");
        async {}
    }
    let log = Log::default();
    let caught =
        epilogue_task::isolated(Default::default(), async_scope(async |s| body(s, &log).await)).await;
    assert_eq!(caught.unwrap_err().chain().to_string(), "panic: before the future");
    assert_eq!(seen(&log), three(How::Panicked));
}
