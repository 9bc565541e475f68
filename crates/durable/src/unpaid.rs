//! What is not done yet, for the older cleanups that must not run over it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epilogue_guardian::{WHOLE_RUN, depends};
use epilogue_journal::{Entry, Journal, JournalError, Registered, State, Store};
use epilogue_task::lane;

use crate::handle::{DurableError, Owed};

/// The records of this process that are within other scopes, or whose turn has come, and are not done.
#[derive(Default)]
pub(crate) struct Unpaid {
    all: Mutex<BTreeMap<u64, Known>>,
    changed: Condvar,
    /// Scopes of which something has waited in vain, the latest last.
    impatient: Mutex<VecDeque<u64>>,
    /// What was held back when its scope was left: nobody else in this process will run it.
    held: Mutex<Vec<Held>>,
    /// How many those are, for who only wants to know whether there are any.
    held_count: AtomicUsize,
}

/// So many scopes that have waited in vain are remembered. Most are left by then.
const IMPATIENT_MAX: usize = 100;

/// What was held back, and by which record.
struct Held {
    owed: Arc<Owed>,
    by: u64,
}

/// Where it is not known what holds a record back, it is tried whenever something is done.
pub(crate) const ANYTHING: u64 = 0;

/// Why a cleanup runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Somebody has asked for it: what is newer and has not begun is not its business.
    Early,
    /// Its scope is left.
    Left,
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
    pub(crate) standing: Standing,
}

/// What becomes of a newer record, the least to be waited for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It runs, or its turn has come and nothing keeps it from running: worth some patience.
    Soon,
    /// Its scope is open, or somebody else's business: it runs when that is left.
    Lives,
    /// It has failed or is parked, or its turn came and it was not done.
    Stuck,
}

struct Known {
    record: Registered,
    of: Of,
    phase: Phase,
}

/// A newer record that is open.
struct Suspect {
    id: u64,
    scope: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Registered,
    /// Its turn has come.
    Waits,
    Runs,
    /// It was not done when its turn came, because of something that stands so.
    Held(Standing),
}

impl Unpaid {
    /// It is registered within other scopes.
    pub(crate) fn registered(&self, record: Registered, of: &Of) {
        self.set(record, of, Phase::Registered);
    }

    /// Its turn has come, and it has not begun.
    pub(crate) fn waits(&self, record: Registered, of: &Of) {
        let mut all = self.lock();
        let new = || Known { record, of: of.clone(), phase: Phase::Waits };
        let known = all.entry(record.id()).or_insert_with(new);
        // One that was held back counts as that while it is tried again.
        if !matches!(known.phase, Phase::Runs | Phase::Held(_)) {
            known.phase = Phase::Waits;
        }
    }

    pub(crate) fn runs(&self, record: Registered, of: &Of) {
        self.set(record, of, Phase::Runs);
    }

    /// It was not done, and will not be soon: who waits for it need wait no longer.
    pub(crate) fn stuck(&self, record: Registered, of: &Of) {
        self.held_back(record, of, Standing::Stuck);
    }

    /// It waits for something that stands so, and so does whoever waits for it.
    pub(crate) fn held_back(&self, record: Registered, of: &Of, by: Standing) {
        self.set(record, of, Phase::Held(by));
        self.changed.notify_all();
    }

    pub(crate) fn done(&self, id: u64) {
        self.lock().remove(&id);
        self.changed.notify_all();
    }

    /// Returns when something has changed, or after so long.
    pub(crate) fn wait(&self, at_most: Duration) {
        let _ = self.changed.wait_timeout(self.lock(), at_most);
    }

    /// What holds back a record that destroys: of the newer ones of its scope, and of those within it, the
    /// one that is least worth waiting for.
    pub(crate) fn above(&self, journal: &Journal, scope: u64, id: u64, turn: Turn) -> Option<Newer> {
        let queued = lane::scopes();
        let newer = self.newer(journal, scope, id);
        let blocking = newer.into_iter().filter_map(|suspect| match suspect {
            Ok(entry) => self.blocks(&entry, scope, turn, &queued),
            // It cannot be told: then it is not run over.
            Err(unknown) => Some(Newer { id: unknown, standing: Standing::Stuck }),
        });
        blocking.max_by_key(|newer| newer.standing)
    }

    /// It has waited long enough for what holds it back: nothing else of its scope waits.
    pub(crate) fn waited_in_vain(&self, scope: u64) {
        let mut impatient = self.impatient();
        if impatient.contains(&scope) {
            return;
        }
        impatient.push_back(scope);
        if impatient.len() > IMPATIENT_MAX {
            impatient.pop_front();
        }
    }

    /// The program has begun anew.
    pub(crate) fn may_wait_again(&self, scope: u64) {
        self.impatient().retain(|impatient| *impatient != scope);
    }

    pub(crate) fn may_wait(&self, scope: u64) -> bool {
        !self.impatient().contains(&scope)
    }

    /// The open records that are newer than one of a scope, and may need what that destroys; or the number
    /// of one that cannot be read.
    fn newer(&self, journal: &Journal, scope: u64, id: u64) -> Vec<Result<Suspect, u64>> {
        if scope == WHOLE_RUN {
            // The scope of the program is around all, also around what nobody has told about its own.
            let open = journal.open_entries().map_err(|_| 0);
            let suspect = |entry: Entry| Suspect { id: entry.id, scope: entry.scope, state: entry.state };
            return open.map_or_else(
                |unknown| vec![Err(unknown)],
                |open| {
                    open.into_iter().filter(|entry| entry.id > id).map(|entry| Ok(suspect(entry))).collect()
                },
            );
        }
        let within: Vec<(Registered, u64)> = {
            let all = self.lock();
            let within =
                all.range(id + 1..).filter(|(_, known)| depends(known.of.scope, &known.of.within, scope));
            within.map(|(_, known)| (known.record, known.of.scope)).collect()
        };
        within.into_iter().filter_map(|(record, scope)| self.read(journal, record, scope)).collect()
    }

    /// One that is open. An operator may have settled it meanwhile.
    fn read(&self, journal: &Journal, record: Registered, scope: u64) -> Option<Result<Suspect, u64>> {
        let id = record.id();
        match journal.state_of(record) {
            Ok(state) if state.is_open() => Some(Ok(Suspect { id, scope, state })),
            Ok(_) | Err(JournalError::NoSuchRecord { .. }) => {
                self.done(id);
                None
            }
            Err(_) => Some(Err(id)),
        }
    }

    fn blocks(&self, entry: &Suspect, scope: u64, turn: Turn, queued: &[u64]) -> Option<Newer> {
        let phase = self.lock().get(&entry.id).map_or(Phase::Registered, |known| known.phase);
        let standing = standing(phase, entry, queued);
        let blocks = match turn {
            Turn::Early => !entry.state.is_untouched() || matches!(phase, Phase::Runs | Phase::Held(_)),
            // What lives in a task whose end comes later in the order of its scope, in the hands of somebody
            // outside: its turn has not come. Behind the program's own scope nothing comes.
            Turn::Left => scope == WHOLE_RUN || standing != Standing::Lives,
        };
        blocks.then_some(Newer { id: entry.id, standing })
    }

    fn set(&self, record: Registered, of: &Of, phase: Phase) {
        self.lock().insert(record.id(), Known { record, of: of.clone(), phase });
    }

    fn impatient(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.impatient.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn standing(phase: Phase, entry: &Suspect, queued: &[u64]) -> Standing {
    match (phase, entry.state) {
        (_, State::Failed | State::Parked) => Standing::Stuck,
        (Phase::Held(by), _) => by,
        (Phase::Waits | Phase::Runs, _) => Standing::Soon,
        (Phase::Registered, state) if !state.is_untouched() => Standing::Soon,
        (Phase::Registered, _) if queued.contains(&entry.scope) => Standing::Soon,
        (Phase::Registered, _) => Standing::Lives,
    }
}

/// What was held back, and is tried again when something is done.
impl Unpaid {
    pub(crate) fn hold(&self, owed: Arc<Owed>, by: u64) {
        self.change_held(|held| held.push(Held { owed, by }));
    }

    /// It is not any more. Returns whether it was: nobody else has taken it to try it.
    pub(crate) fn unhold(&self, id: u64) -> bool {
        if self.held_count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        self.change_held(|held| {
            let before = held.len();
            held.retain(|held| held.owed.id() != id);
            held.len() < before
        })
    }

    /// This is done: what it held back is tried again, newest first.
    pub(crate) fn retry_held(&self, done: u64) {
        retry(self.held_by(done));
    }

    /// The same on a thread of its own, if there is anything.
    pub(crate) fn retry_elsewhere(&self, done: u64) {
        let held = self.held_by(done);
        if held.is_empty() {
            return;
        }
        let theirs = held.clone();
        let begun = std::thread::Builder::new().name("epilogue-held".into()).spawn(move || retry(theirs));
        if begun.is_err() {
            let again = held.into_iter().map(|owed| Held { owed, by: ANYTHING });
            self.change_held(|held| held.extend(again));
        }
    }

    fn held_by(&self, done: u64) -> Vec<Arc<Owed>> {
        if self.held_count.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let its = |held: &mut Held| held.by == done || held.by == ANYTHING;
        self.change_held(|held| held.extract_if(.., its).map(|held| held.owed).collect())
    }

    fn change_held<T>(&self, change: impl FnOnce(&mut Vec<Held>) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut held);
        self.held_count.store(held.len(), Ordering::SeqCst);
        changed
    }
}

fn retry(mut held: Vec<Arc<Owed>>) {
    held.sort_by_key(|owed| std::cmp::Reverse(owed.id()));
    for owed in held {
        match owed.run(Turn::Left) {
            Ok(_) | Err(DurableError::HeldBack { .. }) => {}
            Err(error) => epilogue_scope::report::failed_to("a durable cleanup", &error),
        }
    }
}
