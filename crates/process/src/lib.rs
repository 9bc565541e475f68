//! The process as a scope: what was started in order is stopped in reverse, whatever ends it.
//!
//! [`run`] takes the body of a program. What the body starts with [`App::start`] and
//! [`App::spawn`] goes on one stack; when the program is to end (the body returns, fails or
//! panics, a signal comes, somebody calls [`App::stop`] or `std::process::exit`) the stack is
//! stopped newest first, each step isolated from the others, within one [budget].
//!
//! # Guarantees
//!
//! 1. Everyone is told at once: the moment the stop begins, every part's
//!    [`on_stopping`](Started::on_stopping) runs. Then the steps stop one by one, newest first.
//! 2. A step that fails, panics or overstays never keeps a later one from running; the report
//!    names it, and the exit status says so.
//! 3. A signal does not drop the body in the middle of a start: it has its own limit to end in.
//! 4. The process leaves within its budget, also when a blocking thread is stuck.
//! 5. A repeated SIGTERM never cuts a request in flight ([`escalation`]).
//!
//! # What this crate does not do
//!
//! It does not survive SIGKILL, and no cleanup of an aborted process runs. It brings no runtime:
//! [`run`] is awaited on yours, which must be tokio with time enabled. Signals that arrive before
//! [`run`] is polled have their default effect. Linux only, so far.
//!
//! # Examples
//!
//! ```
//! use epilogue_process::{App, Options, Started, part, run_with};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // `embedded`: no signals, no end of the process; a program writes `run(async |app| …)`.
//! let (_, report) = run_with(Options::embedded(), async |app: &App| {
//!     let pool = app
//!         .start(part("pool", async || Ok(Started::new("connections", async |_| Ok(())))))
//!         .await?;
//!     assert_eq!(pool, "connections");
//!     app.start(part("listener", async || Ok(Started::new((), async |_| Ok(()))))).await?;
//!     Ok(())
//! })
//! .await;
//! let order: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
//! assert_eq!(order, ["listener", "pool"]);
//! # }
//! ```

mod app;
pub mod budget;
mod dump;
mod error;
pub mod escalation;
mod event;
mod exit;
mod exit_hook;
#[cfg(feature = "axum")]
pub mod http;
mod inherited;
mod last;
mod launch;
mod line;
mod listener;
mod optional;
mod options;
mod os;
mod panic_hook;
mod part;
mod plan;
mod program;
mod ready;
mod reload;
mod report;
mod restart;
mod run;
mod runtime;
#[cfg(feature = "tcp")]
mod server;
mod signals;
mod stack;
mod starting;
mod state;
mod stop;
mod systemd;
mod tasks;
#[cfg(feature = "tcp")]
pub mod tcp;
mod time_left;
mod upgrade;
mod walk;
mod word;

pub use app::{App, Deferred};
pub use epilogue_task::TaskPanic;
pub use error::Error;
pub use exit::exit;
pub use inherited::is_taking_over;
pub use launch::{main, main_with};
pub use optional::{Optional, StartWithin};
pub use options::{ExitStyle, Options, ReportAs};
pub use part::{BoxFuture, FnPart, Part, Started, StopFn, part};
pub use plan::{Plan, PlannedStep};
pub use report::{ExitReport, InFlight, StepKind, StepOutcome, StepReport};
pub use restart::{Restart, Restartable, restartable};
pub use run::{run, run_with};
pub use state::{StopCx, StopToken, Trigger};
