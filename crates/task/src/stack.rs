//! The stack of what an async scope owes, as the scope has it.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use epilogue_scope::__private::AsyncAttempt;
use epilogue_scope::record::Live;
use epilogue_scope::{CleanupResult, How};
use tokio::task::AbortHandle;

use crate::entry::{Kind, When};
use crate::lane;
use crate::pay::{IntoAttempt, Pay};
use crate::shared::Shared;

/// What an async scope owes. Dropped with something on it, it hands that to the [`lane`].
///
/// `#[scoped]` declares one in an `async fn`; [`async_scope`](crate::async_scope) holds one.
///
/// The second field is there until it has been paid.
pub struct AsyncStack(pub(crate) Arc<Shared>, Option<lane::Alive>);

/// An async cleanup on its scope, to disarm it or to run it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncDeferred(pub(crate) u64);

/// A scope has paid everything it owed; the cleanup was not registered and will not run.
#[derive(Debug, thiserror::Error)]
#[error("the scope is closed: it has paid everything, and a further cleanup would never run")]
#[non_exhaustive]
pub struct ScopeClosed {}

impl ScopeClosed {
    pub(crate) fn new() -> ScopeClosed {
        ScopeClosed {}
    }
}

impl AsyncStack {
    /// A stack that owes nothing.
    #[expect(clippy::new_without_default, reason = "of use to `#[scoped]` only")]
    pub fn new() -> AsyncStack {
        AsyncStack::listed(Live::default())
    }

    pub(crate) fn listed(live: Live) -> AsyncStack {
        lane::arm();
        AsyncStack(Arc::new(Shared::new(live)), Some(lane::Alive::new()))
    }

    /// How many cleanups are pending.
    pub fn pending(&self) -> usize {
        self.0.pending()
    }

    /// Owes a cleanup.
    #[inline]
    #[track_caller]
    pub fn defer<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.push(cleanup, Kind::default())
    }

    /// Owes a cleanup for anything but a return that is known not to be `Err`.
    #[track_caller]
    pub fn defer_err<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.push(cleanup, Kind { when: When::Failure, ..Kind::default() })
    }

    /// Owes a cleanup for a return that is not known to be `Err`.
    #[track_caller]
    pub fn defer_ok<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.push(cleanup, Kind { when: When::Success, ..Kind::default() })
    }

    #[inline]
    #[track_caller]
    pub(crate) fn push<F, Fut>(&self, cleanup: F, kind: Kind) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        match self.0.push(cleanup, kind, Location::caller()) {
            Ok(deferred) => deferred,
            Err(_) => unreachable!("a scope is closed by its owner, which still lends it"),
        }
    }

    /// Runs everything above the lowest `depth` cleanups, newest first, for a body that has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, the rest, the cleanup that was running included, goes to the lane when
    /// the stack is dropped, with the ending the body had.
    pub async fn pay_down<R>(&self, depth: usize, attempt: &mut AsyncAttempt<R>) {
        Pay::down(&self.0, depth, 0, IntoAttempt(attempt)).await;
    }

    /// Runs everything, newest first, for a body that has ended, and closes the stack.
    ///
    /// # Cancel safety
    ///
    /// As [`pay_down`](AsyncStack::pay_down).
    pub(crate) async fn pay_all<R>(mut self, attempt: &mut AsyncAttempt<R>) {
        Pay::all(&self.0, IntoAttempt(attempt)).await;
        self.1 = None;
    }
}

impl Drop for AsyncStack {
    #[inline]
    fn drop(&mut self) {
        if self.1.is_some() {
            self.leave();
        }
    }
}

impl AsyncStack {
    fn leave(&mut self) {
        let Some(how) = self.0.leave() else { return };
        // The scope is cancelled, whatever its body did before: its tasks must not go on without it.
        self.0.tasks().iter().for_each(AbortHandle::abort);
        lane::hand_over(Arc::clone(&self.0), how);
    }
}
