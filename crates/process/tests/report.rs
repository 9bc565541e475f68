//! The report: as text, as a line, as JSON, as events; and what runs when all of it is known.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_process::{App, Error, ExitReport, Options, Started, StepOutcome, part, run_with};

const S: Duration = Duration::from_secs(1);

async fn run(grace: Duration, body: impl AsyncFnOnce(&App) -> Result<(), Error>) -> ExitReport {
    run_with(Options::embedded().grace(grace), body).await.1
}

#[tokio::test(start_paused = true)]
async fn what_runs_last_knows_how_everything_else_went_and_is_in_the_report_itself() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (first, second) = (Arc::clone(&seen), Arc::clone(&seen));
    let report = run(30 * S, async |app| {
        app.defer_last("logs", async move |report: Arc<ExitReport>| {
            first.lock().unwrap().push(("logs", report.steps.len(), report.code));
            Err(Error::msg("nobody listens"))
        });
        app.defer("connection", async || Err(Error::msg("gone")));
        app.defer_last("traces", async move |report: Arc<ExitReport>| {
            second.lock().unwrap().push(("traces", report.steps.len(), report.code));
            Ok(())
        });
        Ok(())
    })
    .await;
    assert_eq!(*seen.lock().unwrap(), [("traces", 1, 123), ("logs", 2, 123)]);
    assert_eq!(report.code, 123);
    assert!(matches!(&report.steps[2].outcome, StepOutcome::Failed { error } if error == "nobody listens"));
}

#[tokio::test(start_paused = true)]
async fn what_runs_last_has_half_a_second_whatever_the_others_take_and_no_more_than_is_left() {
    let report = run(3 * S, async |app| {
        app.defer_last("telemetry", async |_| {
            tokio::time::sleep(S * 2 / 5).await;
            Ok(())
        });
        app.defer("hangs", async || std::future::pending().await);
        Ok(())
    })
    .await;
    assert_eq!((report.code, report.abandoned().len()), (124, 1), "{report}");
    let report = run(3 * S, async |app| {
        app.defer_last("telemetry", async |_| std::future::pending().await);
        Ok(())
    })
    .await;
    assert_eq!((report.code, report.total), (124, S * 5 / 2), "{report}");
    assert!(report.abandoned()[0].starts_with("telemetry (crates/process/tests/report.rs:"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn steps_say_when_their_turn_came() {
    let report = run(30 * S, async |app| {
        app.defer("older", async || Ok(()));
        app.defer("newer", async || {
            tokio::time::sleep(2 * S).await;
            Ok(())
        });
        Ok(())
    })
    .await;
    assert_eq!((report.steps[0].at, report.steps[1].at), (Duration::ZERO, 2 * S));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["steps"][1]["at_ms"], 2000.0);
}

#[tokio::test(start_paused = true)]
async fn one_line_tells_it_all_and_stays_one_line() {
    let report = run(3 * S, async |app| {
        app.defer("fails", async || Err(Error::msg("two\nlines, \"quoted\"")));
        app.start(part("hangs", async || Ok(Started::new((), async |_| std::future::pending().await))))
            .await?;
        Ok(())
    })
    .await;
    let line = report.line();
    assert!(
        line.starts_with(
            "epilogue.exit code=124 trigger=\"the body returned\" level=graceful total_ms=2000 "
        )
    );
    assert!(line.contains(r#" failed="fails: two\nlines, \"quoted\"""#), "{line}");
    assert!(line.contains(" abandoned=\"hangs (crates/process/tests/report.rs:"), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[cfg(feature = "tracing")]
mod events {
    use super::*;
    use std::fmt::Write;
    use tracing::field::{Field, Visit};

    /// Every event as text, kept.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            let _ = write!(self.0, " {field}={value:?}");
        }
    }

    impl tracing::Subscriber for Kept {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut text = Text(event.metadata().name().to_owned());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn the_exit_is_an_event_before_telemetry_is_flushed() {
        let kept = Kept::default();
        let theirs = kept.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(kept.clone(), || {
            runtime.block_on(run(30 * S, async |app| {
                app.defer("pool", async || Ok(()));
                app.defer_last("telemetry", async move |_| {
                    theirs.0.lock().unwrap().push("flushed".into());
                    Ok(())
                });
                Ok(())
            }));
        });
        let events = kept.0.lock().unwrap().clone();
        let names: Vec<_> = events.iter().map(|event| event.split(' ').next().unwrap()).collect();
        assert_eq!(names, ["epilogue.stopping", "epilogue.step", "epilogue.exit", "flushed"], "{events:?}");
        assert!(events[2].contains(" code=0 trigger=the body returned"), "{}", events[2]);
    }
}
