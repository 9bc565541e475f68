//! What was disarmed of a scope, until the scope can be told.
//!
//! A [`Durable`](crate::Durable) may be disarmed from anywhere, also from another thread; the stack of a
//! [`Scope`](epilogue_scope::Scope) is in the hands of its own. So the disarmed entry is left here, and
//! taken off when the next is registered: a loop that registers and disarms keeps the room of one.

use std::cell::RefCell;
use std::rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use epilogue_scope::{Deferred, Scope};

/// A scope of this thread that has durable cleanups pending.
struct Known {
    scope: u64,
    open: rc::Weak<()>,
    mailbox: Weak<Mailbox>,
}

impl Known {
    /// What was taken off a scope that is left is of no scope any more.
    fn counts(&self) -> bool {
        self.open.strong_count() > 0 && self.mailbox.strong_count() > 0
    }
}

thread_local!(static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) });

/// The open scopes of this thread that have durable cleanups pending and are around `inner`, the innermost last.
/// One that was entered later than `inner`, as its higher number says, is not around it.
pub(crate) fn pending_scopes(inner: u64) -> Vec<u64> {
    let pending = |known: &RefCell<Vec<Known>>| -> Vec<u64> {
        let known = known.borrow();
        known.iter().filter(|known| known.counts() && known.scope <= inner).map(|known| known.scope).collect()
    };
    // While a thread is torn down none is open.
    let mut pending = KNOWN.try_with(pending).unwrap_or_default();
    pending.sort_unstable();
    pending
}

/// The entries of one scope that are to be taken off. Kept by the cleanups that are pending there.
#[derive(Default)]
pub(crate) struct Mailbox(Mutex<Vec<Deferred>>);

impl Mailbox {
    /// That of a scope of this thread.
    pub(crate) fn of<R>(scope: &Scope<'_, R>) -> Arc<Mailbox> {
        KNOWN.with_borrow_mut(|known| {
            known.retain(Known::counts);
            let found = known.iter().find(|known| known.scope == scope.id());
            found.and_then(|known| known.mailbox.upgrade()).unwrap_or_else(|| {
                let mailbox = Arc::default();
                let (open, of) = (scope.while_open(), Arc::downgrade(&mailbox));
                known.push(Known { scope: scope.id(), open, mailbox: of });
                mailbox
            })
        })
    }

    pub(crate) fn put(&self, deferred: Deferred) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(deferred);
    }

    pub(crate) fn take(&self) -> Vec<Deferred> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
