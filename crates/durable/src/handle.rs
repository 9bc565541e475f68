//! A durable cleanup in the hands of who registered it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epilogue_guardian::{Action, ActionError, Call, HomeError, RunError, now_ms, run_here};
use epilogue_journal::{Disarm, Ended, JournalError, Record, Registered, State, Tier};
use serde::Serialize;

use crate::owner::{self, Owner, current_pid};
use crate::unpaid::{ANYTHING, Newer, Of, Standing, Turn, Unpaid};

/// A durable cleanup that is on record. Dropped, it is still owed: its scope runs it.
///
/// # Examples
///
/// See [`DurableScope`](crate::DurableScope).
#[must_use = "hold it to disarm it; bind it to `_owed` if it is to run in any case"]
pub struct Durable {
    pub(crate) owed: Arc<Owed>,
}

/// What is on record, shared between who registered it and the scope that runs it.
pub(crate) struct Owed {
    owner: Arc<Owner>,
    registered: Registered,
    of: Of,
    destroys: bool,
    /// [`OPEN`], [`RUNS`], [`DISARMS`] or [`SETTLED`].
    standing: AtomicU8,
    /// Its turn came while somebody else had it in hand: who gives it back sees to it.
    missed: AtomicBool,
    /// Others may be held back by it.
    noted: AtomicBool,
    what: String,
    /// Takes it off the stack of its scope.
    forget: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

const OPEN: u8 = 0;
const RUNS: u8 = 1;
const DISARMS: u8 = 2;
/// Disarmed or run: its scope finds nothing to do.
const SETTLED: u8 = 3;

/// So long at most one that waits for a newer one keeps its thread, on which that may want to run.
const STEP: Duration = Duration::from_millis(50);

/// What came of its turn.
pub(crate) enum Outcome {
    /// `false`: it was settled before, or somebody else runs it.
    Ran(bool),
    HeldBack(Newer),
}

/// Why a durable cleanup could not be registered, amended or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// There is no place for a journal.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The run of this process could not be made.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The journal could not be written. Nothing was registered.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The arguments cannot be written as JSON.
    #[error("the arguments cannot be written: {0}")]
    Arguments(#[from] serde_json::Error),
    /// It ran, and did not succeed. It stays on record, and is tried again by the next payer.
    #[error("{what}: {why}; it stays on record")]
    Failed {
        /// What it does.
        what: String,
        /// What it said.
        why: String,
    },
    /// It did not run, because a newer one of its scope, or of one within it, has failed, still runs, or was
    /// held back itself, and it [destroys](epilogue_guardian::Action::DESTROYS) what that may still need. It
    /// stays on record, and is run when that is done: by this process, or by the next payer.
    #[error("{what}: held back: #{newer} above it was not done; it stays on record")]
    HeldBack {
        /// What it does.
        what: String,
        /// The id of the newer one.
        newer: u64,
    },
    /// The promise cannot be given here.
    #[error("{0}; nothing was registered")]
    NotHere(String),
    /// This process was forked from the one that owes it.
    #[error("it is owed by the process that this one was forked from")]
    Forked,
}

impl Durable {
    pub(crate) fn register<A: Action>(action: &A, tier: Tier, of: Of) -> Result<Durable, DurableError> {
        let owner = owner::owner(tier)?;
        let call = Call { within: of.within.clone(), ..Call::of(action)? };
        let body = call.to_bytes()?;
        let record = Record { scope: of.scope, time_ms: now_ms(), body: &body, tier };
        let registered = owner.run.journal.register(&record)?;
        if !of.within.is_empty() {
            owner.unpaid.registered(registered, &of);
        }
        let owed = Owed {
            owner,
            registered,
            noted: AtomicBool::new(!of.within.is_empty()),
            of,
            destroys: call.destroys,
            standing: AtomicU8::new(OPEN),
            missed: AtomicBool::new(false),
            what: action.describe(),
            forget: Mutex::new(None),
        };
        Ok(Durable { owed: Arc::new(owed) })
    }

    /// Adds what became known only after the registration: an id that a service has given, the
    /// [`Identity`](crate::Identity) of a file. The action finds it in
    /// [`ActionCx::amendment`](crate::ActionCx::amendment). The newest counts.
    ///
    /// # Errors
    ///
    /// [`DurableError`]: what was on record stays as it was.
    pub fn amend(&self, known: impl Serialize) -> Result<(), DurableError> {
        self.owed.own()?;
        let body = serde_json::to_vec(&known)?;
        Ok(self.owed.owner.run.journal.amend(self.owed.registered.id(), now_ms(), &body)?)
    }

    /// Makes sure that it will not run. Returns `false` when it is too late: it runs, or has run; or when the
    /// journal cannot be written any more, which the [report sink](epilogue_scope::report) is told: then it
    /// does not run in this process, but stays on record for the next payer, or may come back after a power cut.
    ///
    /// One that is held back, or waits for a newer one, can still be disarmed. One that has failed cannot: it
    /// stays with its scope.
    ///
    /// # Cost
    ///
    /// A few dozen nanoseconds; a flush of the device for what was promised to survive a power cut; a thread
    /// where it held something back, which may run now.
    pub fn disarm(self) -> bool {
        self.owed.disarm()
    }

    /// Runs it now, not at the end. Blocks. `Ok(false)`: it was settled before.
    ///
    /// # Errors
    ///
    /// [`DurableError::Failed`], or [`HeldBack`](DurableError::HeldBack) by what has begun and is not done; it
    /// stays on record and with its scope, which runs it when it is left.
    pub fn run_now(&self) -> Result<bool, DurableError> {
        let ran = self.owed.run(Turn::Early)?;
        // Not where somebody else runs it, and may fail.
        if self.owed.standing.load(Ordering::SeqCst) == SETTLED {
            self.owed.forget();
        }
        Ok(ran)
    }

    /// Its id in the journal, as `epilogue pending list` shows it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owed.owner.run.short(), self.owed.registered.id())
    }

    pub(crate) fn forget_with(&self, forget: impl FnOnce() + Send + 'static) {
        *self.owed.forget.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(forget));
    }
}

impl Owed {
    fn own(&self) -> Result<(), DurableError> {
        if self.owner.pid == current_pid() { Ok(()) } else { Err(DurableError::Forked) }
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Its number in the journal.
    pub(crate) fn id(&self) -> u64 {
        self.registered.id()
    }

    fn disarm(self: &Arc<Owed>) -> bool {
        if self.own().is_err() || !self.claim(DISARMS) {
            return false;
        }
        let disarmed = self.owner.run.journal.disarm(self.registered);
        if matches!(disarmed, Ok(Disarm::TooLate(State::Failed))) {
            // Its scope may try it again.
            self.give_back();
            return false;
        }
        self.forget();
        if let Err(error) = &disarmed {
            epilogue_scope::report::failed_to(&format!("the disarm of {}", self.what), error);
        }
        self.settle();
        // Not on this thread, which only wanted to disarm.
        self.owner.unpaid.retry_elsewhere(self.id());
        matches!(disarmed, Ok(Disarm::Disarmed | Disarm::Already))
    }

    /// Nothing is to be done about it here any more. It counts as long as it is on record all the same: kept for
    /// an operator or in the hands of one, or the disarm was refused.
    fn settle(&self) {
        self.stand(SETTLED);
        self.owner.unpaid.unhold(self.id());
        self.note_settled();
    }

    fn note_settled(&self) {
        if self.is_on_record() {
            self.note(|unpaid, record, of| unpaid.stuck(record, of));
        } else if self.noted.load(Ordering::SeqCst) {
            self.owner.unpaid.done(self.id());
        }
    }

    /// Whether it is owed, as far as that can be told: then nothing runs over it.
    fn is_on_record(&self) -> bool {
        match self.owner.run.journal.state_of(self.registered) {
            Ok(state) => state.is_open(),
            Err(error) => !matches!(error, JournalError::NoSuchRecord { .. }),
        }
    }

    fn forget(&self) {
        let forget = self.forget.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(forget) = forget {
            forget();
        }
    }

    /// Runs it, unless it was settled or somebody else runs it. `Err` where it is held back.
    pub(crate) fn run(self: &Arc<Owed>, turn: Turn) -> Result<bool, DurableError> {
        match self.run_or_hold(turn)? {
            Outcome::Ran(ran) => Ok(ran),
            Outcome::HeldBack(newer) => Err(self.held_back(newer)),
        }
    }

    /// The same, a step at a time: `None`, after a moment, while what holds it back may be done soon.
    pub(crate) fn step(self: &Arc<Owed>, patience: Duration) -> Result<Option<Outcome>, DurableError> {
        match self.attempt(Turn::Left)? {
            Outcome::HeldBack(Newer { standing: Standing::Soon, .. }) => {
                let unpaid = &self.owner.unpaid;
                if !patience.is_zero() && unpaid.may_wait(self.of.scope) {
                    unpaid.wait(patience.min(STEP));
                    return Ok(None);
                }
                unpaid.waited_in_vain(self.of.scope);
                self.run_or_hold(Turn::Left).map(Some)
            }
            Outcome::HeldBack(_) => self.run_or_hold(Turn::Left).map(Some),
            ran => Ok(Some(ran)),
        }
    }

    /// Its scope is in use again: what has waited in vain for its end is over.
    pub(crate) fn begins_anew(&self) {
        self.owner.unpaid.may_wait_again(self.of.scope);
    }

    /// Its turn has come. From now on it counts, for whoever is older.
    pub(crate) fn waits(&self) {
        self.note(|unpaid, record, of| unpaid.waits(record, of));
        // Settled before, or at this moment by somebody who did not see that it counts.
        if self.standing.load(Ordering::SeqCst) == SETTLED {
            self.note_settled();
        }
    }

    /// Its turn came, and nobody has taken it.
    pub(crate) fn passed_over(self: &Arc<Owed>) {
        if self.is_open() {
            self.note(|unpaid, record, of| unpaid.stuck(record, of));
            self.owner.unpaid.hold(Arc::clone(self), ANYTHING);
        }
    }

    /// Runs it, or keeps it to be tried again when something is done. What was only asked for early is kept
    /// by its scope.
    pub(crate) fn run_or_hold(self: &Arc<Owed>, turn: Turn) -> Result<Outcome, DurableError> {
        loop {
            let newer = match self.attempt(turn)? {
                Outcome::HeldBack(newer) if turn == Turn::Left => newer,
                outcome => return Ok(outcome),
            };
            self.note(|unpaid, record, of| unpaid.held_back(record, of, newer.standing));
            if self.hold(newer) {
                return Ok(Outcome::HeldBack(newer));
            }
        }
    }

    /// Keeps it until that is done; `false` where nothing holds it back any more.
    fn hold(self: &Arc<Owed>, newer: Newer) -> bool {
        let mut by = newer;
        loop {
            self.owner.unpaid.hold(Arc::clone(self), by.id);
            // That may have ended before this was there to be found.
            match self.above(Turn::Left) {
                Some(still) if still.id == by.id => return true,
                other => {
                    // Or somebody has found it, and tries it.
                    if !self.owner.unpaid.unhold(self.id()) {
                        return true;
                    }
                    let Some(other) = other else { return false };
                    by = other;
                }
            }
        }
    }

    fn attempt(self: &Arc<Owed>, turn: Turn) -> Result<Outcome, DurableError> {
        if self.own().is_err() {
            return Ok(Outcome::Ran(false));
        }
        if turn == Turn::Left {
            // Also where somebody else has it at this moment.
            self.waits();
        }
        if !self.is_open() {
            self.missed.fetch_or(turn == Turn::Left, Ordering::SeqCst);
            // Given back at this moment, by somebody who did not see that.
            if !self.is_open() {
                return Ok(Outcome::Ran(false));
            }
        }
        if let Some(newer) = self.above(turn) {
            return Ok(Outcome::HeldBack(newer));
        }
        // Or it was disarmed meanwhile, or is run by somebody else.
        if self.claim(RUNS) { self.run_claimed().map(Outcome::Ran) } else { Ok(Outcome::Ran(false)) }
    }

    fn run_claimed(self: &Arc<Owed>) -> Result<bool, DurableError> {
        self.note(|unpaid, record, of| unpaid.runs(record, of));
        let ran = match run_here(&self.owner.run, self.id(), Ended::Unknown) {
            Ok(Some(Err(error))) => Err(self.failed(&error)),
            Ok(ran) => Ok(ran.is_some()),
            Err(error) => Err(error.into()),
        };
        if ran.is_err() {
            // Still owed, by its scope as by the journal.
            self.give_back();
        } else {
            self.settle();
            self.owner.unpaid.retry_held(self.id());
        }
        ran
    }

    /// It has failed, or could not be disarmed. If its turn has passed by, it is tried again when anything is done.
    fn give_back(self: &Arc<Owed>) {
        self.stand(OPEN);
        self.note(|unpaid, record, of| unpaid.stuck(record, of));
        if self.missed.swap(false, Ordering::SeqCst) {
            self.owner.unpaid.hold(Arc::clone(self), ANYTHING);
        }
    }

    fn is_open(&self) -> bool {
        self.standing.load(Ordering::SeqCst) == OPEN
    }

    /// Takes it, to run it or to disarm it: one alone does.
    fn claim(&self, standing: u8) -> bool {
        self.standing.compare_exchange(OPEN, standing, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn stand(&self, standing: u8) {
        self.standing.store(standing, Ordering::SeqCst);
    }

    fn note(&self, note: impl FnOnce(&Unpaid, Registered, &Of)) {
        // Whoever settles it either sees this, or is seen by who has noted it.
        self.noted.store(true, Ordering::SeqCst);
        note(&self.owner.unpaid, self.registered, &self.of);
    }

    /// What holds it back.
    fn above(&self, turn: Turn) -> Option<Newer> {
        let (unpaid, journal) = (&self.owner.unpaid, &self.owner.run.journal);
        self.destroys.then(|| unpaid.above(journal, self.of.scope, self.id(), turn)).flatten()
    }

    pub(crate) fn held_back(&self, newer: Newer) -> DurableError {
        DurableError::HeldBack { what: self.what.clone(), newer: newer.id }
    }

    fn failed(&self, error: &ActionError) -> DurableError {
        DurableError::Failed { what: self.what.clone(), why: error.to_string() }
    }
}
