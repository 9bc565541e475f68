//! `main`: a whole program, with the runtime and the signals in our hands from its first line.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use epilogue_task::lane;

use crate::app::App;
use crate::error::Error;
use crate::options::{ExitStyle, Options};
use crate::runtime::{Left, OwnRuntime};
use crate::{os, run};

/// As long as a process that exits waits for what dropped futures owe.
const LANE_LIMIT: Duration = Duration::from_secs(10);

/// What a program's `main` returns: hears signals, makes a multi-threaded tokio runtime, and does what
/// [`run`](crate::run) does.
///
/// A signal that comes while a program has no handler yet kills it, or, as PID 1, is lost for ever. Here that
/// is so until the first line of `main`; with `run`, until somebody has made a runtime and polls it.
///
/// What the runtime's threads are still at when everything has stopped has the rest of the budget to end, as with
/// `run`; but threads for blocking work that do nothing but read standard input, which nothing can interrupt, are left
/// behind after a fifth of a second, and stderr says so. (Where the system does not tell what its threads are at, as in
/// gVisor and for a program whose file has capabilities, they have the rest of the budget as well.)
///
/// # Panics
///
/// Inside a tokio runtime.
///
/// # Examples
///
/// ```no_run
/// use epilogue_process::App;
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     epilogue_process::main(async |app: &App| {
///         app.spawn("ticker", async { std::future::pending().await });
///         app.stopping().await;
///         Ok(())
///     })
/// }
/// ```
pub fn main<F>(body: F) -> ExitCode
where
    F: AsyncFnOnce(&App) -> Result<(), Error>,
{
    main_with(Options::default(), body)
}

/// [`main`] with settings.
///
/// # Panics
///
/// As [`main`].
pub fn main_with<F>(options: Options, body: F) -> ExitCode
where
    F: AsyncFnOnce(&App) -> Result<(), Error>,
{
    let app = run::new_app(options);
    let signals = app.inner.options.owns_process.then(|| run::listen(&app.inner)).flatten();
    let own = match OwnRuntime::new() {
        Ok(own) => own,
        Err(error) => {
            app.inner.over.store(true, Ordering::Release);
            os::say(&format!("epilogue: error: no runtime can be made: {error}; nothing was started"));
            return ExitCode::FAILURE;
        }
    };
    app.inner.own_runtime.store(true, Ordering::Relaxed);
    let report = own.runtime.block_on(run::run_listening(&app, signals, body));
    // What is dropped with it comes to the lane, and is waited for before the process dies of a signal; an exit
    // waits by itself.
    if own.end() == Left::Reading && !app.inner.options.quiet {
        os::say("epilogue: a thread that reads standard input is left behind");
    }
    if app.inner.options.exit_style == ExitStyle::Tool {
        lane::wait(LANE_LIMIT);
    }
    run::die_if_told(&app.inner.options, &report);
    ExitCode::from(report.code)
}
