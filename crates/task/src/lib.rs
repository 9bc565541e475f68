//! The task-sized scope: cleanups that are futures, and tasks that cannot outlive their scope.
//!
//! [`async_scope`] runs what was registered on it when its body ends, newest first, whatever the
//! ending. If the future that runs it is dropped in the middle (`select!`, a time-out, an abort, a
//! runtime that goes away), what is still owed is handed to the [`lane`], which runs it elsewhere.
//!
//! # Guarantees
//!
//! 1. Every cleanup registered on a scope is begun exactly once, unless it is disarmed.
//! 2. Within a scope they run strictly one after the other, newest first, also on the lane.
//! 3. One that fails or panics keeps none of the others from running; what it said is joined to the
//!    scope's result, or reported.
//! 4. A dropped future blocks no worker and needs no runtime: the lane has one of its own.
//! 5. When `main` returns, or somebody calls `exit`, the lane is waited for, within
//!    [its limit](lane::set_exit_limit).
//!
//! # What this crate does not do
//!
//! It handles no signals and never ends the process. A cleanup that was *begun* on a runtime that
//! then goes away may fail on its timers and sockets: that is reported, not repaired. What borrows
//! from the future cannot be run after it is gone, so cleanups own what they use; for what borrows,
//! there are guards.

mod adopted;
mod boundary;
mod debts;
mod enclosing;
mod entry;
pub mod lane;
mod left;
mod lock;
mod os;
mod pay;
mod policy;
mod reach;
mod scope;
mod shared;
mod stack;
mod sync;
mod task;

pub use boundary::{isolated, isolated_with, with_context};
pub use debts::Debts;
pub use enclosing::enclosing_scopes;
pub use policy::{StopTheProgram, TaskPanic, on_task_panic};
pub use reach::{Reach, Shell, within_reach};
pub use scope::{AsyncScope, ScopeHandle, WeakScopeHandle, async_scope, try_async_scope};
pub use stack::{AsyncDeferred, ScopeClosed};
pub use task::{Task, TaskError};

#[doc(hidden)]
pub mod __private {
    pub use crate::adopted::handed_scopes;
    pub use crate::stack::AsyncStack;
}
