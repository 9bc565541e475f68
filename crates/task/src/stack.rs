//! The stack of what an async scope owes. Shared: by the scope, by handles, and by the lane once
//! the scope is gone.

use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epilogue_scope::__private::AsyncAttempt;
use epilogue_scope::record::{Finished, Live, Registration};
use epilogue_scope::{CleanupResult, How};

use crate::entry::{Cleanup, Entry, When, lazy};
use crate::{lane, pay};

/// What an async scope owes. Dropped with something on it, it hands that to the [`lane`].
///
/// `#[scoped]` declares one in an `async fn`; [`async_scope`](crate::async_scope) holds one.
pub struct AsyncStack(pub(crate) Arc<Shared>, lane::Alive);

/// What everybody shares who may register on a scope or pay it.
pub(crate) struct Shared {
    owed: Mutex<Owed>,
    live: Live,
}

#[derive(Default)]
struct Owed {
    entries: Vec<Entry>,
    next: u32,
    /// Fixed when the body ends: a scope that is cancelled while it pays did not end so.
    how: Option<How>,
    closed: bool,
}

/// An async cleanup on its scope, to disarm it or to run it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncDeferred(u32);

/// A scope has paid everything it owed; the cleanup was not registered and will not run.
#[derive(Debug, thiserror::Error)]
#[error("the scope is closed: it has paid everything, and a further cleanup would never run")]
#[non_exhaustive]
pub struct ScopeClosed {}

impl AsyncStack {
    /// A stack that owes nothing.
    #[expect(clippy::new_without_default, reason = "of use to `#[scoped]` only")]
    pub fn new() -> AsyncStack {
        AsyncStack::listed(Live::default())
    }

    pub(crate) fn listed(live: Live) -> AsyncStack {
        lane::arm();
        AsyncStack(Arc::new(Shared { owed: Mutex::default(), live }), lane::Alive::new())
    }

    /// How many cleanups are pending.
    pub fn pending(&self) -> usize {
        self.0.lock().entries.len()
    }

    /// Owes a cleanup.
    #[track_caller]
    pub fn defer<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.push(lazy(cleanup), When::Always, None)
    }

    /// Owes a cleanup for anything but a return that is known not to be `Err`.
    #[track_caller]
    pub fn defer_err<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.push(lazy(cleanup), When::Failure, None)
    }

    /// Owes a cleanup for a return that is not known to be `Err`.
    #[track_caller]
    pub fn defer_ok<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.push(lazy(cleanup), When::Success, None)
    }

    #[track_caller]
    pub(crate) fn push(
        &self,
        cleanup: std::pin::Pin<Box<dyn Cleanup>>,
        when: When,
        limit: Option<Duration>,
    ) -> AsyncDeferred {
        match self.0.push(cleanup, when, limit, Location::caller()) {
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
        self.0.end(attempt.how());
        pay::down(&self.0, depth, &mut pay::IntoAttempt(attempt)).await;
    }
}

impl Drop for AsyncStack {
    fn drop(&mut self) {
        let how = {
            let mut owed = self.0.lock();
            if owed.entries.is_empty() {
                owed.closed = true;
                return;
            }
            *owed.how.get_or_insert(How::Cancelled)
        };
        lane::hand_over(Arc::clone(&self.0), how);
    }
}

impl Shared {
    pub(crate) fn push(
        &self,
        cleanup: std::pin::Pin<Box<dyn Cleanup>>,
        when: When,
        limit: Option<Duration>,
        place: &'static Location<'static>,
    ) -> Result<AsyncDeferred, ScopeClosed> {
        let mut owed = self.lock();
        if owed.closed {
            return Err(ScopeClosed {});
        }
        let id = owed.next;
        owed.next = owed.next.wrapping_add(1);
        let registration = Registration::new("async scope", place);
        owed.entries.push(Entry { cleanup, registration, place, when, limit, id, begun: false });
        drop(owed);
        self.live.owes(id, place);
        Ok(AsyncDeferred(id))
    }

    /// The newest cleanup above `depth`. Asked for the very last one, with none left, it closes: what
    /// came later would never run.
    pub(crate) fn pop(&self, depth: usize) -> Option<Entry> {
        let mut owed = self.lock();
        if owed.entries.len() <= depth {
            owed.closed |= depth == 0;
            return None;
        }
        let entry = owed.entries.pop();
        drop(owed);
        if let Some(entry) = &entry {
            self.live.paid(entry.id);
        }
        entry
    }

    /// Puts back a cleanup that was cut while it ran.
    pub(crate) fn put_back(&self, entry: Entry) {
        self.live.owes(entry.id, entry.place);
        self.lock().entries.push(entry);
    }

    /// Takes a cleanup out, wherever it is.
    pub(crate) fn take(&self, deferred: AsyncDeferred) -> Option<Entry> {
        let mut owed = self.lock();
        let at = owed.entries.iter().rposition(|entry| entry.id == deferred.0)?;
        let entry = owed.entries.remove(at);
        drop(owed);
        self.live.paid(entry.id);
        Some(entry)
    }

    /// Takes over a cleanup of another stack.
    pub(crate) fn adopt(&self, mut entry: Entry) -> Result<AsyncDeferred, (Entry, ScopeClosed)> {
        let mut owed = self.lock();
        if owed.closed {
            return Err((entry, ScopeClosed {}));
        }
        entry.id = owed.next;
        owed.next = owed.next.wrapping_add(1);
        let (id, place) = (entry.id, entry.place);
        owed.entries.push(entry);
        drop(owed);
        self.live.owes(id, place);
        Ok(AsyncDeferred(id))
    }

    pub(crate) fn disarm(&self, deferred: AsyncDeferred) -> bool {
        let Some(mut entry) = self.take(deferred) else { return false };
        entry.registration.finish(Finished::Disarmed);
        true
    }

    /// Moves everything pending on top of what another stack owes.
    pub(crate) fn move_to(&self, other: &Shared) -> Result<(), ScopeClosed> {
        if std::ptr::eq(self, other) {
            return Ok(());
        }
        let entries = std::mem::take(&mut self.lock().entries);
        self.live.paid_all();
        let mut owed = other.lock();
        if owed.closed {
            drop(owed);
            self.lock().entries = entries;
            return Err(ScopeClosed {});
        }
        for mut entry in entries {
            entry.id = owed.next;
            owed.next = owed.next.wrapping_add(1);
            other.live.owes(entry.id, entry.place);
            owed.entries.push(entry);
        }
        Ok(())
    }

    pub(crate) fn end(&self, how: How) {
        self.lock().how = Some(how);
    }

    /// The places of what is pending, for the report of what could not be run.
    pub(crate) fn places(&self) -> Vec<String> {
        self.lock().entries.iter().rev().map(|entry| entry.place.to_string()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
