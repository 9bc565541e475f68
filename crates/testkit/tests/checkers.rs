//! The checkers find what is wrong, and nothing where all is well.

use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use epilogue_process::{App, Options, Started, part};
use epilogue_testkit::{Fault, Faults, each_fault, faulty, stop_at_every_await};

const S: Duration = Duration::from_secs(1);

async fn three(app: &App, faults: &Faults) -> Result<(), epilogue_process::Error> {
    for name in ["pool", "queue", "http"] {
        app.start(faults.part(part(name, async || Ok(Started::new((), async |_| Ok(())).cap(5 * S)))))
            .await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn whatever_one_part_does_every_other_one_is_stopped_once_and_in_time() {
    let runs = each_fault(Options::embedded, three).await;
    assert_eq!(runs.len(), 1 + 3 * Fault::ALL.len());
    for run in &runs {
        assert!(run.broken.is_empty(), "{:?}: {:?}\n{}", run.fault, run.broken, run.report);
        let code = match run.fault.as_ref().map(|(_, fault)| *fault) {
            None | Some(Fault::StartTakes(_) | Fault::StopTakes(_)) => 0,
            Some(Fault::StartFails) => 1,
            Some(Fault::StartPanics) => 101,
            Some(Fault::StopFails | Fault::StopPanics) => 123,
            Some(_) => 124,
        };
        assert_eq!(run.report.code, code, "{:?}\n{}", run.fault, run.report);
        let told = run.report.to_string();
        let named = run.fault.as_ref().is_none_or(|(part, _)| code == 0 || told.contains(part));
        assert!(named, "{:?} is not named:\n{told}", run.fault);
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_never_stopped_is_found() {
    let forgets = async |app: &App, faults: &Faults| {
        let kept = faults.part(part("forgotten", async || Ok(Started::new((), async |_| Ok(())))));
        // It starts, and nobody owes its stop.
        drop(epilogue_process::Part::start(kept).await?);
        app.stop();
        Ok(())
    };
    let runs = each_fault(Options::embedded, forgets).await;
    assert_eq!(runs[0].broken, ["forgotten was stopped 0 times, not 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_ones_own_choice_is_where_it_was_put() {
    let (_, report) = epilogue_process::run_with(Options::embedded(), async |app: &App| {
        let pool = part("pool", async || Ok(Started::new((), async |_| Ok(()))));
        app.start(faulty(pool, Fault::StopTakes(3 * S))).await?;
        Ok(())
    })
    .await;
    assert_eq!((report.total, report.code), (3 * S, 0));
}

#[tokio::test(start_paused = true)]
async fn wherever_a_start_is_stopped_nothing_is_left() {
    static OPEN: AtomicI32 = AtomicI32::new(0);
    let body = async |app: &App| {
        for _ in 0..3 {
            let opens = async || {
                tokio::task::yield_now().await;
                OPEN.fetch_add(1, Ordering::Relaxed);
                Ok(Started::new((), async |_| {
                    OPEN.fetch_sub(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    Ok(())
                }))
            };
            app.start(part("opens", opens)).await?;
        }
        Ok(())
    };
    let waits = stop_at_every_await(Options::embedded, body, |wait, report| {
        assert_eq!(OPEN.load(Ordering::Relaxed), 0, "stopped at wait {wait}: {report}");
        assert_eq!(report.code, 0, "{report}");
    })
    .await;
    assert_eq!(waits, 3);
}
