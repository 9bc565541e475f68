//! What is not done yet, for the older cleanups that must not run over it.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epilogue_guardian::{WHOLE_RUN, depends};
use epilogue_journal::{Journal, JournalError, State, Store};

use crate::handle::{DurableError, Owed};

/// The records of this process that are within other scopes, or were begun or held back, and are not done.
#[derive(Default)]
pub(crate) struct Unpaid {
    all: Mutex<BTreeMap<u64, Of>>,
    changed: Condvar,
    /// What was held back when its scope was left: nobody else in this process will run it.
    held: Mutex<Vec<Arc<Owed>>>,
}

/// Why a cleanup runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Somebody has asked for it: what is newer and has not begun is not its business.
    Early,
    /// Its scope is left. So long it waits, before it destroys, for what is newer and may end soon.
    Left { patience: Duration },
}

impl Turn {
    pub(crate) const LEFT: Turn = Turn::Left { patience: Duration::ZERO };

    pub(crate) fn patience(self) -> Duration {
        match self {
            Turn::Early => Duration::ZERO,
            Turn::Left { patience } => patience,
        }
    }

    /// Whether a newer record in this state holds back what destroys.
    fn waits_for(self, state: State) -> bool {
        state.is_open() && (self != Turn::Early || !state.is_untouched())
    }
}

/// Whose a record is.
#[derive(Clone)]
pub(crate) struct Of {
    pub(crate) scope: u64,
    /// See [`Call::within`](epilogue_guardian::Call::within).
    pub(crate) within: Vec<u64>,
}

/// A newer record that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newer {
    pub(crate) id: u64,
    /// It may be done soon: it runs, or its turn has not come.
    pub(crate) may_end: bool,
}

impl Unpaid {
    /// It is registered within another scope, is about to run, or shall not run yet. From now on it counts,
    /// until it is done.
    pub(crate) fn note(&self, id: u64, of: &Of) {
        self.lock().insert(id, of.clone());
    }

    pub(crate) fn done(&self, id: u64) {
        self.lock().remove(&id);
        self.changed.notify_all();
    }

    /// It has failed: who waits for it need wait no longer.
    pub(crate) fn failed(&self) {
        self.changed.notify_all();
    }

    /// Returns when something has changed, or after so long.
    pub(crate) fn wait(&self, at_most: Duration) {
        let _ = self.changed.wait_timeout(self.lock(), at_most);
    }

    /// A newer record of a scope, or of one within it, that is not done. An operator may have settled it
    /// meanwhile.
    pub(crate) fn above(&self, journal: &Journal, scope: u64, id: u64, turn: Turn) -> Option<Newer> {
        if scope == WHOLE_RUN {
            return owed_by_anybody(journal, id, turn);
        }
        let newer: Vec<u64> = {
            let all = self.lock();
            let newer = all.range(id + 1..).filter(|(_, of)| depends(of.scope, &of.within, scope));
            newer.map(|(id, _)| *id).collect()
        };
        for suspect in newer {
            match journal.entry(suspect) {
                Ok(entry) if turn.waits_for(entry.state) => return Some(Newer::of(suspect, entry.state)),
                Ok(entry) if entry.state.is_open() => {}
                Ok(_) | Err(JournalError::NoSuchRecord { .. }) => self.done(suspect),
                // It cannot be told: then it is not run over.
                Err(_) => return Some(Newer { id: suspect, may_end: false }),
            }
        }
        None
    }

    /// It was held back, and is to be tried again when something is done.
    pub(crate) fn hold(&self, owed: Arc<Owed>) {
        self.held().push(owed);
    }

    /// It is not any more. Returns whether it was: nobody else has taken it to try it.
    pub(crate) fn unhold(&self, id: u64) -> bool {
        let mut held = self.held();
        let before = held.len();
        held.retain(|owed| owed.id() != id);
        held.len() < before
    }

    /// Something is done: what was held back is tried again, newest first.
    pub(crate) fn retry_held(&self) {
        let held = std::mem::take(&mut *self.held());
        retry(held);
    }

    /// The same on a thread of its own, if there is anything.
    pub(crate) fn retry_elsewhere(&self) {
        let held = std::mem::take(&mut *self.held());
        if held.is_empty() {
            return;
        }
        let theirs = held.clone();
        let begun = std::thread::Builder::new().name("epilogue-held".into()).spawn(move || retry(theirs));
        if begun.is_err() {
            self.held().extend(held);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Of>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Vec<Arc<Owed>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newer {
    fn of(id: u64, state: State) -> Newer {
        Newer { id, may_end: !matches!(state, State::Failed | State::Parked) }
    }
}

/// The scope of the program is around all, so all that is newer and open counts: also of a scope that nobody
/// has told about its own.
fn owed_by_anybody(journal: &Journal, id: u64, turn: Turn) -> Option<Newer> {
    match journal.open_entries() {
        Err(_) => Some(Newer { id: 0, may_end: false }),
        Ok(open) => {
            let newer = open.iter().filter(|entry| entry.id > id && turn.waits_for(entry.state));
            newer.map(|entry| Newer::of(entry.id, entry.state)).next()
        }
    }
}

fn retry(mut held: Vec<Arc<Owed>>) {
    held.sort_by_key(|owed| std::cmp::Reverse(owed.id()));
    for owed in held {
        match owed.run(Turn::LEFT) {
            Ok(_) | Err(DurableError::HeldBack { .. }) => {}
            Err(error) => epilogue_scope::report::failed_to("a durable cleanup", &error),
        }
    }
}
