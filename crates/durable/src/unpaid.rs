//! What failed and is still owed, for the older cleanups that must not run over it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use epilogue_journal::{Journal, JournalError};

/// The records that were run by this process without success, by their scope.
#[derive(Default)]
pub(crate) struct Unpaid(Mutex<HashMap<u64, Vec<u64>>>);

impl Unpaid {
    pub(crate) fn failed(&self, scope: u64, id: u64) {
        self.with(|all| {
            let ids = all.entry(scope).or_default();
            if !ids.contains(&id) {
                ids.push(id);
            }
        });
    }

    pub(crate) fn paid(&self, scope: u64, id: u64) {
        self.with(|all| {
            if let Some(ids) = all.get_mut(&scope) {
                ids.retain(|failed| *failed != id);
                if ids.is_empty() {
                    all.remove(&scope);
                }
            }
        });
    }

    /// A newer record of the same scope that was not done. An operator may have settled it meanwhile.
    pub(crate) fn above(&self, journal: &Journal, scope: u64, id: u64) -> Option<u64> {
        let suspects = self.with(|all| all.get(&scope).cloned()).unwrap_or_default();
        for suspect in suspects.into_iter().filter(|failed| *failed > id) {
            match journal.entry(suspect) {
                // It cannot be told: then it is not run over.
                Err(JournalError::Io { .. }) => return Some(suspect),
                Ok(entry) if entry.state.is_open() => return Some(suspect),
                _ => self.paid(scope, suspect),
            }
        }
        None
    }

    fn with<T>(&self, body: impl FnOnce(&mut HashMap<u64, Vec<u64>>) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
