//! Cleanup you can count on: what a program defers, runs.
//!
//! A *scope* is a stack of what is owed, and leaving it by any door pays it, newest first. In a
//! function the scope is a block with [`defer!`], a [`guard`], or a [`scope`]; in a program it is
//! the body of [`run`].
//!
//! This crate holds no code of its own: it is the one to depend on, and re-exports the others.
//!
//! # Examples
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

pub use epilogue_macros::scoped;
pub use epilogue_process::{
    App, Error, ExitReport, FnPart, Options, Part, Started, StepKind, StepOutcome, StepReport, StopCx,
    StopToken, TaskPanic, Trigger, budget, escalation, exit, part, run, run_with,
};
pub use epilogue_scope::{
    BoxError, Caught, Chain, CleanupError, CleanupErrors, CleanupResult, Defer, Deferred, Ending, Guard, How,
    Link, Payload, Pile, Scope, SendPile, catch, defer, defer_err, defer_ok, describe, guard, keep, record,
    report, scope, task, try_scope,
};
pub use epilogue_task::{
    AsyncDeferred, AsyncScope, ScopeClosed, ScopeHandle, Task, TaskError, async_scope, lane, try_async_scope,
};

#[doc(hidden)]
pub mod __private {
    pub use epilogue_scope::__private::*;
    pub use epilogue_task::__private::*;
}

#[cfg(feature = "axum")]
pub use epilogue_process::http;

/// The README's examples, word for word.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
