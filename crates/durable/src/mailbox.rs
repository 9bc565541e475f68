//! What was disarmed of a scope, until the scope can be told.
//!
//! A [`Durable`](crate::Durable) may be disarmed from anywhere, also from another thread; the stack of a
//! [`Scope`](epilogue_scope::Scope) is in the hands of its own. So the disarmed entry is left here, and
//! taken off when the next is registered: a loop that registers and disarms keeps the room of one.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use epilogue_scope::Deferred;

thread_local!(static KNOWN: RefCell<Vec<(u64, Weak<Mailbox>)>> = const { RefCell::new(Vec::new()) });

/// The scopes of this thread that have durable cleanups pending, by number.
pub(crate) fn pending_scopes() -> Vec<u64> {
    let pending = |known: &RefCell<Vec<(u64, Weak<Mailbox>)>>| {
        known.borrow().iter().filter(|(_, mailbox)| mailbox.strong_count() > 0).map(|(id, _)| *id).collect()
    };
    // While a thread is torn down none is open.
    KNOWN.try_with(pending).unwrap_or_default()
}

/// The entries of one scope that are to be taken off. Kept by the cleanups that are pending there.
#[derive(Default)]
pub(crate) struct Mailbox(Mutex<Vec<Deferred>>);

impl Mailbox {
    /// That of a scope of this thread.
    pub(crate) fn of(scope: u64) -> Arc<Mailbox> {
        KNOWN.with_borrow_mut(|known| {
            known.retain(|(_, mailbox)| mailbox.strong_count() > 0);
            let found = known.iter().find(|(id, _)| *id == scope).and_then(|(_, mailbox)| mailbox.upgrade());
            found.unwrap_or_else(|| {
                let mailbox = Arc::default();
                known.push((scope, Arc::downgrade(&mailbox)));
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
