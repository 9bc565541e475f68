//! Cleanup you can count on: what a program defers, runs.
//!
//! A *scope* is a stack of what is owed, and leaving it by any door pays it, newest first:
//!
//! | scope | what is owed | with |
//! |---|---|---|
//! | a block | code, run by a guard | [`defer!`], [`guard`] |
//! | a function | the same, and cleanups that look at the ending | [`#[scoped]`](macro@scoped), [`scope`] |
//! | a task | cleanups that await, and tasks | `#[scoped] async fn`, [`async_scope`] |
//! | a program | how its parts stop | [`fn@main`] or [`run`]; [`exit`] |
//!
//! This crate holds no code of its own: it is the one to depend on, and re-exports the others.
//!
//! # Examples
//!
//! A function, as in Go:
//!
//! ```
//! use epilogue::{defer, defer_err, describe, scoped};
//!
//! #[scoped]
//! fn divide(by: u32) -> Result<u32, String> {
//!     defer!(|end| end.recover_with(|panic| Err(describe(&*panic))));
//!     defer!(println!("runs on every way out"));
//!     defer_err!(println!("runs on anything but Ok"));
//!     Ok(100 / by)
//! }
//!
//! assert_eq!(divide(5), Ok(20));
//! assert_eq!(divide(0), Err("attempt to divide by zero".into()));
//! ```
//!
//! A service that stops in the reverse order of its start and loses no request:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use epilogue::{App, Started, http, part};
//! use std::process::ExitCode;
//!
//! #[tokio::main]
//! async fn main() -> ExitCode {
//!     epilogue::run(async |app: &App| {
//!         let lock = std::path::PathBuf::from("service.lock");
//!         app.start(part("lock file", async || {
//!             std::fs::write(&lock, "")?;
//!             Ok(Started::new((), async move |_| Ok(std::fs::remove_file(lock)?)))
//!         }))
//!         .await?;                                                 // stops last
//!         let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//!         let router = Router::new().route("/", get(|| async { "hello" }));
//!         app.start(http::serve(listener, router).readiness("/ready")).await?;   // stops first
//!         Ok(())
//!     })
//!     .await
//! }
//! ```

/// Makes a function a scope: its `defer!`s run when the function is left, by whatever door, newest
/// first, wherever in the function they stand; and they may look at the ending.
///
/// In a `fn` or an `async fn` with this attribute:
///
/// | written | runs |
/// |---|---|
/// | `defer!(code)` | always; in a loop or a branch too when the *function* ends |
/// | `defer!(\|end\| code)` | always; sees and may replace the result, may recover a panic ([`Ending`]) |
/// | `defer_err!(code)`, `defer_ok!(code)` | on anything but `Ok`; on a return that is not `Err` |
/// | `keep!(value, cleanup)` | always; gives `&mut` to the value meanwhile |
/// | `defer!(async { code })`, `defer!(async \|how\| code)` | in an `async fn`: awaited; when the future is dropped, on the [`lane`] |
///
/// `#[scoped(unrecorded)]` leaves the function off the list of live scopes ([`record`]);
/// `#[scoped(local)]`, on an `async fn`, is for a future that stays on its thread. What may borrow what,
/// and what the compiler says to mistakes, is in `docs/scoped.md`.
///
/// # Cost
///
/// A plain `defer!` is a guard. One that looks at the ending costs about two nanoseconds on return, and
/// a catch on a panic. Not being listed costs a relaxed load and a test or two.
pub use epilogue_macros::scoped;
pub use epilogue_process::{
    App, Error, ExitReport, ExitStyle, FnPart, InFlight, Optional, Options, Part, Plan, PlannedStep,
    ReportAs, Restart, Restartable, StartWithin, Started, StepKind, StepOutcome, StepReport, StopCx,
    StopToken, TaskPanic, Trigger, budget, escalation, exit, main, main_with, part, restartable, run,
    run_with,
};
pub use epilogue_scope::{
    BoxError, Caught, Chain, CleanupError, CleanupErrors, CleanupResult, Defer, Deferred, Ending, Guard, How,
    Link, Payload, Pile, Scope, SendPile, catch, defer, defer_err, defer_ok, describe, guard, keep, record,
    report, scope, task, try_scope,
};
pub use epilogue_task::{
    AsyncDeferred, AsyncScope, ScopeClosed, ScopeHandle, Task, TaskError, WeakScopeHandle, async_scope, lane,
    try_async_scope, with_context,
};

#[doc(hidden)]
pub mod __private {
    pub use epilogue_scope::__private::*;
    pub use epilogue_task::__private::*;
}

#[cfg(any(
    feature = "sqlx",
    feature = "redis",
    feature = "nats",
    feature = "rabbit",
    feature = "opentelemetry"
))]
pub use epilogue_adapters as adapters;
#[cfg(feature = "durable")]
pub use epilogue_durable as durable;
#[cfg(feature = "durable")]
pub use epilogue_durable::DurableScope;
#[cfg(feature = "axum")]
pub use epilogue_process::http;
#[cfg(feature = "tcp")]
pub use epilogue_process::tcp;
#[cfg(feature = "registry")]
pub use epilogue_registry as registry;

/// The examples of README and docs, word for word.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/scoped.md")]
    struct Scoped;
    #[doc = include_str!("../../../docs/from-go.md")]
    struct FromGo;
    #[doc = include_str!("../../../docs/from-scopeguard.md")]
    struct FromScopeguard;
}
