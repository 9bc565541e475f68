//! Starting: what fails rolls back, what takes too long is given up and named, what is optional is gone without, and
//! one part can be restarted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_process::{
    App, Error, ExitReport, Options, Part, Started, StepOutcome, StopCx, Trigger, part, restartable, run_with,
};
use tokio::sync::Notify;

const S: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A part that notes its start and its stop.
    fn part(&self, name: &'static str) -> impl Part<Handle = &'static str> {
        let log = self.clone();
        part(name, async move || {
            log.add(format!("start {name}"));
            Ok(Started::new(name, async move |_| {
                log.add(format!("stop {name}"));
                Ok(())
            }))
        })
    }
}

async fn run(body: impl AsyncFnOnce(&App) -> Result<(), Error>) -> ExitReport {
    run_with(Options::embedded(), body).await.1
}

#[tokio::test]
async fn a_start_that_fails_rolls_back_what_had_started_and_both_errors_are_shown() {
    let log = Log::default();
    let report = run(async |app| {
        app.start(log.part("pool")).await?;
        let queue = async || Ok(Started::new((), async |_| Err(Error::msg("messages are left"))));
        app.start(part("queue", queue)).await?;
        app.start(part("listener", async || Err::<Started<()>, _>(Error::msg("the port is taken")))).await?;
        app.start(log.part("never")).await?;
        Ok(())
    })
    .await;
    assert_eq!(log.all(), ["start pool", "stop pool"]);
    let Trigger::Failed { error } = &report.trigger else { panic!("{report}") };
    assert!(error.starts_with("listener (crates/process/tests/start.rs:"), "{error}");
    assert!(error.ends_with(") did not start: the port is taken"), "{error}");
    let told = report.to_string();
    assert!(told.contains("did not start: the port is taken"), "{told}");
    assert!(told.contains("FAILED: messages are left"), "{told}");
    assert_eq!((report.code, report.steps.len()), (1, 2), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_too_long_is_given_up() {
    let given_up = Arc::new(Mutex::new(false));
    let theirs = Arc::clone(&given_up);
    let report = run(async |app| {
        let hangs = part("database", async || {
            let _connection = OnDrop(theirs);
            std::future::pending::<Result<Started<()>, Error>>().await
        });
        app.start(hangs.start_within(5 * S)).await?;
        Ok(())
    })
    .await;
    assert!(report.to_string().contains("database (crates/process/tests/start.rs:"), "{report}");
    assert!(report.to_string().contains("did not start: it did not start within 5s"), "{report}");
    assert!(*given_up.lock().unwrap());
}

struct OnDrop(Arc<Mutex<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = true;
    }
}

#[tokio::test]
async fn without_an_optional_part_the_program_goes_on_and_the_report_says_so() {
    let log = Log::default();
    let report = run(async |app| {
        let cache = part("cache", async || Err::<Started<()>, _>(Error::msg("connection refused")));
        assert!(app.start(cache.optional()).await?.is_none());
        assert_eq!(app.start(log.part("pool").optional()).await?, Some("pool"));
        Ok(())
    })
    .await;
    assert_eq!(log.all(), ["start pool", "stop pool"]);
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(report.steps[1].notes, ["had not started: connection refused"], "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_in_the_middle_of_a_start_names_it() {
    let report = run(async |app| {
        let stop = app.clone();
        tokio::spawn(async move {
            tokio::time::sleep(S).await;
            stop.stop();
        });
        let hangs = part("database", async || std::future::pending::<Result<Started<()>, Error>>().await);
        app.start(hangs).await?;
        Ok(())
    })
    .await;
    let abandoned = report.abandoned();
    assert!(report.body_dropped && report.code == 124, "{report}");
    assert!(
        abandoned[1].starts_with("the start of database (crates/process/tests/start.rs:"),
        "{abandoned:?}"
    );
    assert!(abandoned[1].ends_with("for 6.0 s"), "{abandoned:?}");
}

/// A restartable part whose handle is the number of its start; the start waits for the permit, where there is one.
fn numbered(log: &Log, wait: Option<Arc<Notify>>) -> impl Part<Handle = epilogue_process::Restart<usize>> {
    let (log, count) = (log.clone(), Arc::new(Mutex::new(0)));
    restartable("pool", move || {
        let (log, count, wait) = (log.clone(), Arc::clone(&count), wait.clone());
        async move {
            let number = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            if let Some(wait) = wait.filter(|_| number > 1) {
                log.add(format!("starting {number}"));
                wait.notified().await;
            }
            if number == 3 {
                return Err(Error::msg("no third"));
            }
            log.add(format!("start {number}"));
            let told = log.clone();
            let stop = async move |cx: StopCx| {
                log.add(format!("stop {number} within {:?}", cx.remaining()));
                Ok(())
            };
            Ok(Started::new(number, stop).cap(2 * S).on_stopping(move || told.add(format!("told {number}"))))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn one_part_is_restarted_at_its_place() {
    let log = Log::default();
    let report = run(async |app| {
        app.start(log.part("older")).await?;
        let pool = app.start(numbered(&log, None)).await?;
        app.start(log.part("newer")).await?;
        assert_eq!(pool.get(), Some(1));
        pool.restart().await?;
        assert_eq!((pool.get(), pool.running().await), (Some(2), 2));
        let error = pool.restart().await.unwrap_err().to_string();
        assert_eq!((error.as_str(), pool.get()), ("pool did not start again: no third", None));
        pool.restart().await?;
        assert_eq!(pool.get(), Some(4));
        app.stop();
        app.stopping().await;
        Ok(())
    })
    .await;
    let told = log.all();
    let expected = "start older, start 1, start newer, told 1, stop 1 within 2s, start 2, told 2, stop 2 within 2s, \
                    start 4, told 4, stop newer, stop 4 within 2s, stop older";
    assert_eq!((told.join(", ").as_str(), report.code), (expected, 0), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_restart_that_is_under_way_and_refuses_the_next() {
    let log = Log::default();
    let go = Arc::new(Notify::new());
    let report = run(async |app| {
        let pool = app.start(numbered(&log, Some(Arc::clone(&go)))).await?;
        let again = pool.clone();
        let restart = tokio::spawn(async move { again.restart().await });
        while !log.all().contains(&"starting 2".to_owned()) {
            tokio::task::yield_now().await;
        }
        app.stop();
        app.stopping().await;
        tokio::spawn(async move {
            tokio::time::sleep(S / 2).await;
            go.notify_one();
            restart.await.unwrap().unwrap();
            assert!(pool.restart().await.unwrap_err().is_stopping());
        });
        Ok(())
    })
    .await;
    let told = log.all().join(", ");
    assert!(told.ends_with("starting 2, start 2, told 2, stop 2 within 1.5s"), "{told}");
    assert_eq!(report.code, 0, "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_does_not_stop_for_its_restart_is_cut_and_one_that_does_not_run_is_said() {
    let report = run(async |app| {
        let pool = restartable("pool", || async {
            Ok(Started::new((), async |_| std::future::pending::<Result<(), Error>>().await).cap(S))
        });
        let pool = app.start(pool).await?;
        pool.restart().await?;
        assert_eq!(pool.get(), Some(()));
        Ok(())
    })
    .await;
    assert!(matches!(report.steps[0].outcome, StepOutcome::Abandoned), "{report}");
}
