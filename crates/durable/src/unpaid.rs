//! What was begun and is not done, for the older cleanups that must not run over it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use epilogue_guardian::depends;
use epilogue_journal::{Journal, JournalError};

/// The records that this process has begun, or held back, and not finished.
#[derive(Default)]
pub(crate) struct Unpaid(Mutex<BTreeMap<u64, Of>>);

/// Whose a record is.
#[derive(Clone)]
pub(crate) struct Of {
    pub(crate) scope: u64,
    /// See [`Call::within`](epilogue_guardian::Call::within).
    pub(crate) within: Vec<u64>,
}

impl Unpaid {
    /// It is about to run, or shall not run yet. From now on it counts, until it is done.
    pub(crate) fn note(&self, id: u64, of: &Of) {
        self.with(|all| drop(all.insert(id, of.clone())));
    }

    pub(crate) fn done(&self, id: u64) {
        self.with(|all| drop(all.remove(&id)));
    }

    /// A newer record of a scope, or of one within it, that was not done. An operator may have settled it
    /// meanwhile.
    pub(crate) fn above(&self, journal: &Journal, scope: u64, id: u64) -> Option<u64> {
        let newer = |all: &mut BTreeMap<u64, Of>| -> Vec<u64> {
            let newer = all.range(id + 1..);
            newer.filter(|(_, of)| depends(of.scope, &of.within, scope)).map(|(id, _)| *id).collect()
        };
        for suspect in self.with(newer) {
            match journal.entry(suspect) {
                // It cannot be told: then it is not run over.
                Err(JournalError::Io { .. }) => return Some(suspect),
                Ok(entry) if entry.state.is_open() => return Some(suspect),
                _ => self.done(suspect),
            }
        }
        None
    }

    fn with<T>(&self, body: impl FnOnce(&mut BTreeMap<u64, Of>) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
