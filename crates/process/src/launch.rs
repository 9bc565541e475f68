//! `main`: a whole program, with the runtime and the signals in our hands from its first line.

use std::process::ExitCode;

use crate::app::App;
use crate::error::Error;
use crate::options::Options;
use crate::{os, run};

/// What a program's `main` returns: hears signals, makes a multi-threaded tokio runtime, and does what
/// [`run`](crate::run) does.
///
/// A signal that comes while a program has no handler yet kills it, or, as PID 1, is lost for ever. Here that
/// is so until the first line of `main`; with `run`, until somebody has made a runtime and polls it.
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
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run::run_listening(app, signals, body)).0,
        Err(error) => {
            os::say(&format!("epilogue: error: no runtime can be made: {error}; nothing was started"));
            ExitCode::FAILURE
        }
    }
}
