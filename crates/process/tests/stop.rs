//! The stop of a run: order, isolation, limits. Time is paused.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_process::escalation::StopSignal;
use epilogue_process::{App, Error, ExitReport, Options, Started, StepOutcome, TaskPanic, part, run_with};

fn options() -> Options {
    Options::embedded().grace(Duration::from_secs(30))
}

/// A part whose stop does `stop`.
async fn start<F, Fut>(app: &App, name: &'static str, stop: F) -> Result<(), Error>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    app.start(part(name, async || Ok(Started::new((), move |_| stop())))).await
}

fn outcomes(report: &ExitReport) -> Vec<(&str, &StepOutcome)> {
    report.steps.iter().map(|step| (step.name.as_str(), &step.outcome)).collect()
}

fn failed(error: &str) -> StepOutcome {
    StepOutcome::Failed { error: error.into() }
}

#[tokio::test(start_paused = true)]
async fn what_started_first_stops_last() {
    let (_, report) = run_with(options(), async |app: &App| {
        start(app, "telemetry", async || Ok(())).await?;
        app.defer("temporary files", async || Ok(()));
        start(app, "listener", async || Ok(())).await?;
        Ok(())
    })
    .await;
    let ok = &StepOutcome::Ok;
    assert_eq!(outcomes(&report), [("listener", ok), ("temporary files", ok), ("telemetry", ok)]);
    assert_eq!(report.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_or_panicking_step_keeps_no_later_one_from_running() {
    let (_, report) = run_with(options(), async |app: &App| {
        start(app, "pool", async || Ok(())).await?;
        start(app, "boom", async || -> Result<(), Error> { std::panic::resume_unwind(Box::new("boom")) })
            .await?;
        start(app, "queue", async || Err(Error::msg("2 unacknowledged"))).await?;
        Ok(())
    })
    .await;
    assert_eq!(
        outcomes(&report),
        [
            ("queue", &failed("2 unacknowledged")),
            ("boom", &StepOutcome::Panicked { message: "boom".into() }),
            ("pool", &StepOutcome::Ok),
        ]
    );
    assert_eq!(report.code, 123);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_step_is_abandoned_and_leaves_the_later_ones_their_floors() {
    let (_, report) = run_with(options(), async |app: &App| {
        start(app, "pool", async || Ok(())).await?;
        start(app, "hangs", async || std::future::pending().await).await?;
        Ok(())
    })
    .await;
    assert_eq!(outcomes(&report), [("hangs", &StepOutcome::Abandoned), ("pool", &StepOutcome::Ok)]);
    // 28 s of budget less the 250 ms floor of the pool.
    assert_eq!(report.steps[0].time.as_millis(), 27_750);
    assert_eq!(report.code, 124);
    assert!(report.abandoned()[0].contains("stop.rs:"), "{:?}", report.abandoned());
}

#[tokio::test(start_paused = true)]
async fn all_hanging_steps_together_stay_within_the_budget() {
    let (_, report) = run_with(options(), async |app: &App| {
        for _ in 0..20 {
            start(app, "hangs", async || std::future::pending().await).await?;
        }
        Ok(())
    })
    .await;
    assert_eq!(report.abandoned().len(), 20);
    assert!(report.total <= Duration::from_secs(28), "{:?}", report.total);
}

#[tokio::test(start_paused = true)]
async fn everyone_is_told_before_the_first_step_stops() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (told, stopped) = (Arc::clone(&log), Arc::clone(&log));
    run_with(options(), async |app: &App| {
        let told = told.clone();
        app.start(part("registry", async || {
            Ok(Started::new((), async |_| Ok(())).on_stopping(move || told.lock().unwrap().push("told")))
        }))
        .await?;
        let stopped = stopped.clone();
        start(app, "later", async move || {
            stopped.lock().unwrap().push("stopped");
            Ok(())
        })
        .await
    })
    .await;
    assert_eq!(*log.lock().unwrap(), ["told", "stopped"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_stops_exactly_what_had_started() {
    let (_, report) = run_with(options(), async |app: &App| {
        start(app, "pool", async || Ok(())).await?;
        app.start(part("listener", async || -> Result<Started<()>, Error> {
            Err(std::io::Error::other("port taken").into())
        }))
        .await
    })
    .await;
    assert_eq!(outcomes(&report), [("pool", &StepOutcome::Ok)]);
    assert_eq!(report.code, 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_body_stops_in_order_and_exits_101() {
    let (_, report) = run_with(options(), async |app: &App| -> Result<(), Error> {
        start(app, "pool", async || Ok(())).await?;
        std::panic::resume_unwind(Box::new("lost my head"))
    })
    .await;
    assert_eq!(outcomes(&report), [("pool", &StepOutcome::Ok)]);
    assert_eq!(report.code, 101);
}

#[tokio::test(start_paused = true)]
async fn a_start_in_progress_ends_when_the_stop_begins_and_the_next_is_refused() {
    let (_, report) = run_with(options(), async |app: &App| {
        let asker = app.clone();
        app.start(part("slow", async move || {
            asker.stop();
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(Started::new((), async |_| Ok(())))
        }))
        .await?;
        let refused = start(app, "never", async || Ok(())).await;
        assert!(refused.as_ref().is_err_and(Error::is_stopping));
        refused
    })
    .await;
    assert_eq!(outcomes(&report), [("slow", &StepOutcome::Ok)]);
    assert_eq!((report.code, report.total.as_secs()), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_dropped_at_its_limit_and_the_rest_runs() {
    let (_, report) = run_with(options(), async |app: &App| {
        start(app, "pool", async || Ok(())).await?;
        app.stop();
        std::future::pending().await
    })
    .await;
    assert!(report.body_dropped);
    assert_eq!(outcomes(&report), [("pool", &StepOutcome::Ok)]);
    assert_eq!((report.code, report.total.as_secs()), (124, 5));
}

#[tokio::test(start_paused = true)]
async fn tasks_are_cancelled_in_their_place_or_told_and_awaited() {
    struct Log(&'static str, Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Log {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let (_, report) = run_with(options(), async |app: &App| {
        let cancelled = Log("cancelled", log.clone());
        app.spawn("ticker", async move {
            let _cancelled = cancelled;
            std::future::pending().await
        });
        let told = log.clone();
        app.spawn_until("outbox", |stop| async move {
            stop.stopped().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            told.lock().unwrap().push("batch finished");
        });
        tokio::task::yield_now().await;
        Ok(())
    })
    .await;
    // `spawn` has no way to be told: cutting it at the end of its time is the contract.
    assert_eq!(*log.lock().unwrap(), ["batch finished", "cancelled"]);
    assert_eq!(report.steps[0].name, "outbox");
    assert_eq!(report.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_panic_is_isolated_unless_the_policy_is_to_stop() {
    let body = async |app: &App| {
        app.spawn("worker", async { std::panic::resume_unwind(Box::new("worker died")) });
        tokio::time::timeout(Duration::from_secs(1), app.stopping()).await.ok();
        Ok(())
    };
    let (_, isolated) = run_with(options(), body).await;
    assert_eq!((isolated.code, isolated.total.as_millis()), (123, 0));
    assert_eq!(outcomes(&isolated), [("worker", &failed("panicked: worker died"))]);
    let (_, stopped) = run_with(options().on_task_panic(TaskPanic::Stop), body).await;
    assert_eq!(stopped.code, 101);
}

#[tokio::test]
async fn a_stuck_thread_is_named_and_cannot_hold_the_stop() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (_, report) = run_with(Options::embedded().grace(Duration::from_millis(800)), async |app: &App| {
        start(app, "must still run", async || Ok(())).await?;
        app.spawn_blocking("stuck", move |_| {
            let _ = held.recv();
        });
        Ok(())
    })
    .await;
    assert_eq!(outcomes(&report), [("stuck", &StepOutcome::Abandoned), ("must still run", &StepOutcome::Ok)]);
    assert_eq!(report.code, 124);
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn the_report_is_written_whole_as_json() {
    let path = std::env::temp_dir().join(format!("epilogue-report-{}.json", std::process::id()));
    run_with(options().report_file(&path), async |app: &App| {
        start(app, "queue", async || Err(Error::msg("stuck"))).await
    })
    .await;
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(json["schema"], "epilogue.exit/v1");
    assert_eq!(json["code"], 123);
    assert_eq!(json["steps"][0]["outcome"], "failed");
    assert_eq!(json["steps"][0]["error"], "stuck");
    assert_eq!(json["budget_ms"], 28000.0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_ended_owes_nothing_more_and_takes_nobodys_time() {
    let (_, report) = run_with(options(), async |app: &App| {
        for _ in 0..200 {
            app.spawn("short", async {});
        }
        app.spawn("waits", async { tokio::time::sleep(Duration::from_secs(60)).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    })
    .await;
    let names: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["waits"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_leaves_the_steps_their_time_in_a_small_budget() {
    let (_, report) = run_with(Options::embedded().grace(Duration::from_secs(2)), async |app: &App| {
        start(app, "pool", async || Ok(())).await?;
        app.stop();
        std::future::pending().await
    })
    .await;
    assert!(report.body_dropped);
    assert_eq!(outcomes(&report), [("pool", &StepOutcome::Ok)]);
    assert!(report.total <= Duration::from_millis(1_500), "{:?}", report.total);
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_drop_panics_does_not_skip_the_stop() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("in drop"));
        }
    }
    let (_, report) = run_with(options(), async |app: &App| {
        start(app, "pool", async || Ok(())).await?;
        let _bomb = Bomb;
        app.stop();
        std::future::pending().await
    })
    .await;
    assert_eq!(outcomes(&report), [("pool", &StepOutcome::Ok)]);
}

#[test]
fn what_is_registered_after_the_stop_and_without_a_runtime_is_paid_all_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = std::sync::Mutex::new(None);
    runtime.block_on(run_with(Options::embedded(), async |app: &App| {
        *kept.lock().unwrap() = Some(app.clone());
        Ok(())
    }));
    drop(runtime);
    let (tell, told) = std::sync::mpsc::channel();
    kept.into_inner().unwrap().unwrap().defer("late", async move || {
        tell.send(()).unwrap();
        Ok(())
    });
    told.recv_timeout(Duration::from_secs(10)).unwrap();
}

/// What it holds does this when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_are_dropped_newest_first_and_one_whose_drop_panics_or_blocks_keeps_no_other() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (go, blocked) = std::sync::mpsc::channel::<()>();
    let parked = Arc::new(tokio::sync::Barrier::new(5));
    let (_, report) = run_with(options().grace(Duration::from_secs(2)), async |app: &App| {
        let spawn = |name: &'static str, mut on_drop: Box<dyn FnMut() + Send>| {
            let (log, parked) = (log.clone(), parked.clone());
            app.spawn(name, async move {
                let _owed = OnDrop(move || {
                    log.lock().unwrap().push(name);
                    on_drop();
                });
                parked.wait().await;
                std::future::pending::<()>().await;
            });
        };
        // Longer than what is left to it.
        spawn("oldest", Box::new(|| std::thread::sleep(Duration::from_millis(15))));
        let blocked = Mutex::new(blocked);
        spawn("blocks", Box::new(move || assert!(blocked.lock().unwrap().recv().is_err())));
        spawn("panics", Box::new(|| std::panic::resume_unwind(Box::new("in its drop"))));
        spawn("newest", Box::new(|| {}));
        parked.wait().await;
        Ok(())
    })
    .await;
    drop(go);
    assert_eq!(*log.lock().unwrap(), ["newest", "panics", "blocks", "oldest"]);
    let failed = StepOutcome::Failed { error: "panicked: in its drop".into() };
    let expected = [
        ("newest", &StepOutcome::Ok),
        ("panics", &failed),
        ("blocks", &StepOutcome::Abandoned),
        ("oldest", &StepOutcome::Ok),
    ];
    assert_eq!(outcomes(&report), expected, "{report}");
    assert_eq!(report.code, 124);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn first_turns_take_nothing_from_what_older_steps_are_left() {
    let (go, blocked) = std::sync::mpsc::channel::<()>();
    let (_, report) = run_with(options().grace(Duration::from_secs(2)), async |app: &App| {
        app.defer("releases", async || {
            tokio::time::sleep(Duration::from_millis(450)).await;
            Ok(())
        });
        let parked = Arc::new(tokio::sync::Barrier::new(4));
        for _ in 0..3 {
            let parked = parked.clone();
            app.spawn("slow to drop", async move {
                let _slow = OnDrop(|| std::thread::sleep(Duration::from_millis(20)));
                parked.wait().await;
                std::future::pending::<()>().await;
            });
        }
        parked.wait().await;
        app.defer("blocks", async move || {
            let _ = blocked.recv();
            Ok(())
        });
        Ok(())
    })
    .await;
    drop(go);
    let after = &report.steps[1..];
    assert!(after.len() == 4 && after.iter().all(|step| step.outcome == StepOutcome::Ok), "{report}");
    // The budget is 1.5 s, and a process ends a quarter of a second later.
    assert!(report.total < Duration::from_millis(1_750), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_starts_more_is_not_over_before_that_has_stopped_too() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (_, report) = run_with(options(), async |app: &App| {
        let (again, log) = (app.clone(), log.clone());
        app.defer("older", async || Ok(()));
        app.defer("spawns", async move || {
            let theirs = log.clone();
            again.defer("later", async move || {
                theirs.lock().unwrap().push("later");
                Ok(())
            });
            again.spawn("task", async move { std::future::pending().await });
            assert!(
                again.start(part("refused", async || Ok(Started::new((), async |_| Ok(()))))).await.is_err()
            );
            log.lock().unwrap().push("spawns");
            Ok(())
        });
        Ok(())
    })
    .await;
    let names: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["spawns", "task", "later", "older"], "{report}");
    assert_eq!(*log.lock().unwrap(), ["spawns", "later"]);
}

#[tokio::test(start_paused = true)]
async fn a_cap_counts_from_the_turn_of_its_step_whatever_came_before() {
    let (_, report) = run_with(options(), async |app: &App| {
        app.start(part("server", async || {
            Ok(Started::new((), async |_| {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Ok(())
            }))
        }))
        .await?;
        app.start(part("hangs", async || {
            Ok(Started::new((), async |_| std::future::pending().await).cap(Duration::from_secs(3)))
        }))
        .await?;
        start(app, "takes a while", async || {
            tokio::time::sleep(Duration::from_millis(700)).await;
            Ok(())
        })
        .await
    })
    .await;
    let expected = [
        ("takes a while", &StepOutcome::Ok),
        ("hangs", &StepOutcome::Abandoned),
        ("server", &StepOutcome::Ok),
    ];
    assert_eq!(outcomes(&report), expected);
    assert_eq!(report.total, Duration::from_millis(5_700), "{report}");
}

/// Ctrl-C, and once more.
fn a_person_is_impatient(app: &App) {
    app.signal(StopSignal::Int);
    let again = app.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(600)).await;
        again.signal(StopSignal::Int);
    });
}

#[tokio::test(start_paused = true)]
async fn a_hurry_counts_by_the_step_that_is_being_stopped() {
    let (_, report) = run_with(options(), async |app: &App| {
        app.defer("hangs", async || std::future::pending().await);
        app.start(part("patient", async || {
            let brief = async |_| {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(())
            };
            Ok(Started::new((), brief).hurry_cap(Duration::from_secs(20)))
        }))
        .await?;
        a_person_is_impatient(app);
        Ok(())
    })
    .await;
    assert_eq!(report.total, Duration::from_millis(1600), "{report}");
}

#[tokio::test(start_paused = true)]
async fn in_a_hurry_each_step_has_its_own_second() {
    let (_, report) = run_with(options(), async |app: &App| {
        for name in ["third", "second"] {
            app.defer(name, async || std::future::pending().await);
        }
        app.defer("first", async || {
            tokio::time::sleep(Duration::from_millis(900)).await;
            Ok(())
        });
        a_person_is_impatient(app);
        Ok(())
    })
    .await;
    let times: Vec<_> = report.steps.iter().map(|step| step.time.as_millis()).collect();
    assert_eq!(times, [900, 1000, 1000], "{report}");
}
