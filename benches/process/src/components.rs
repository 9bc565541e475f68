//! Start and stop of a hundred components.

use std::time::{Duration, Instant};

use epilogue::{App, Options, Started, part, run_with};
use tokio_graceful_shutdown::{IntoSubsystem, SubsystemBuilder, SubsystemHandle, Toplevel};

const COUNT: usize = 100;

pub(crate) fn measure() {
    let runtime = crate::runtime();
    crate::compare(
        "start and stop of 100 components",
        200,
        &[
            ("tokio-graceful-shutdown", &|| runtime.block_on(subsystems())),
            ("App::spawn_until", &|| runtime.block_on(tasks())),
            ("App::start", &|| runtime.block_on(parts())),
        ],
    );
}

struct Waits;

impl IntoSubsystem<std::io::Error> for Waits {
    async fn run(self, subsystem: &mut SubsystemHandle) -> Result<(), std::io::Error> {
        subsystem.on_shutdown_requested().await;
        Ok(())
    }
}

async fn subsystems() -> Duration {
    let began = Instant::now();
    let stopped = Toplevel::new(async |all: &mut SubsystemHandle| {
        for at in 0..COUNT {
            all.start(SubsystemBuilder::new(format!("part {at}"), Waits.into_subsystem()));
        }
        all.request_shutdown();
    })
    .handle_shutdown_requests(Duration::from_secs(5))
    .await;
    stopped.expect("all of them stop");
    began.elapsed()
}

async fn tasks() -> Duration {
    let began = Instant::now();
    run_with(Options::embedded(), async |app: &App| {
        for at in 0..COUNT {
            app.spawn_until(format!("part {at}"), async |stop| stop.stopped().await);
        }
        app.stop();
        Ok(())
    })
    .await;
    began.elapsed()
}

/// Each stopped alone, after all that were started later.
async fn parts() -> Duration {
    let began = Instant::now();
    run_with(Options::embedded(), async |app: &App| {
        for at in 0..COUNT {
            app.start(part(format!("part {at}"), async || Ok(Started::new((), async |_| Ok(()))))).await?;
        }
        app.stop();
        Ok(())
    })
    .await;
    began.elapsed()
}
