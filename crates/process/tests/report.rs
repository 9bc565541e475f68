//! The report: as text, as a line, as JSON; and what runs when all of it is known.

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

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_runs_last_is_isolated_and_bounded_from_its_first_line() {
    let (go, blocked) = std::sync::mpsc::channel::<()>();
    let report = run(S, async |app| {
        app.defer_last("oldest", async |_| Ok(()));
        app.defer_last("panics", |_| -> std::future::Ready<Result<(), Error>> {
            std::panic::resume_unwind(Box::new("before it has a future"))
        });
        app.defer_last("blocks", move |_| {
            let _ = blocked.recv();
            std::future::ready(Ok(()))
        });
        Ok(())
    })
    .await;
    drop(go);
    let outcomes: Vec<_> =
        report.steps.iter().map(|step| (step.name.as_str(), step.outcome.to_string())).collect();
    let panicked = "PANICKED: before it has a future".to_owned();
    let expected = [("blocks", "ABANDONED".into()), ("panics", panicked), ("oldest", "ok".into())];
    assert_eq!(outcomes, expected, "{report}");
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
