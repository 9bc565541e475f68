//! A durable cleanup in the hands of who registered it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use epilogue_guardian::{Action, ActionError, Call, HomeError, RunError, now_ms, run_here};
use epilogue_journal::{Disarm, Ended, JournalError, Record, Registered, Tier};
use serde::Serialize;

use crate::owner::{self, Owner, current_pid};
use crate::unpaid::{Newer, Of, Turn};

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
    /// Disarmed or run: the scope finds nothing to do.
    settled: AtomicBool,
    /// Others are held back by it.
    noted: AtomicBool,
    what: String,
    /// Takes it off the stack of its scope.
    forget: Mutex<Option<Box<dyn FnOnce() + Send>>>,
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
            owner.unpaid.note(registered.id(), &of);
        }
        let owed = Owed {
            owner,
            registered,
            noted: AtomicBool::new(!of.within.is_empty()),
            of,
            destroys: call.destroys,
            settled: AtomicBool::new(false),
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

    /// Makes sure that it will not run. Returns `false` when it is too late: it runs, or has run, or its scope
    /// is left and it waits for a newer one (it may run later then); or when
    /// the journal cannot be written any more, which the [report sink](epilogue_scope::report) is told.
    ///
    /// # Cost
    ///
    /// A few dozen nanoseconds; a flush of the device for what was promised to survive a power cut; a thread
    /// where something was held back and may run now.
    pub fn disarm(self) -> bool {
        self.owed.disarm()
    }

    /// Runs it now, not at the end. Blocks. `Ok(false)`: it was settled before.
    ///
    /// # Errors
    ///
    /// [`DurableError::Failed`], or [`HeldBack`](DurableError::HeldBack) by what has begun and is not done; it
    /// stays on record and with its scope.
    pub fn run_now(&self) -> Result<bool, DurableError> {
        let ran = self.owed.run(Turn::Early)?;
        self.owed.forget();
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

    fn disarm(&self) -> bool {
        if self.own().is_err() || self.settled.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.forget();
        match self.owner.run.journal.disarm(self.registered) {
            Ok(Disarm::TooLate(_)) => false,
            Ok(_) => {
                if self.noted.load(Ordering::Acquire) {
                    self.owner.unpaid.done(self.id());
                    // Not on this thread, which only wanted to disarm.
                    self.owner.unpaid.retry_elsewhere();
                }
                true
            }
            Err(error) => {
                epilogue_scope::report::failed_to(&format!("the disarm of {}", self.what), &error);
                false
            }
        }
    }

    fn forget(&self) {
        let forget = self.forget.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(forget) = forget {
            forget();
        }
    }

    /// Its number in the journal.
    pub(crate) fn id(&self) -> u64 {
        self.registered.id()
    }

    /// Runs it, unless it was settled.
    pub(crate) fn run(self: &Arc<Owed>, turn: Turn) -> Result<bool, DurableError> {
        loop {
            let ran = self.run_once(turn);
            if !matches!(ran, Err(DurableError::HeldBack { .. })) {
                return ran;
            }
            self.owner.unpaid.hold(Arc::clone(self));
            // What it waits for may have ended before it was there to be found.
            if self.above(turn).is_some() || !self.owner.unpaid.unhold(self.id()) {
                return ran;
            }
        }
    }

    fn run_once(&self, turn: Turn) -> Result<bool, DurableError> {
        if self.own().is_err() || self.settled.swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        let ran = self.run_unsettled(turn);
        if ran.is_err() {
            // Still owed, by its scope as by the journal.
            self.settled.store(false, Ordering::Release);
            self.owner.unpaid.failed();
        }
        ran
    }

    fn run_unsettled(&self, turn: Turn) -> Result<bool, DurableError> {
        let (run, id) = (&self.owner.run, self.id());
        // Before it begins: who is not done counts, also while it runs, or where nobody can say.
        self.noted.store(true, Ordering::Release);
        self.owner.unpaid.note(id, &self.of);
        self.wait_for_newer(turn)?;
        let ran = match run_here(run, id, Ended::Unknown)? {
            Some(Err(error)) => return Err(self.failed(&error)),
            ran => ran.is_some(),
        };
        self.owner.unpaid.done(id);
        self.owner.unpaid.retry_held();
        Ok(ran)
    }

    fn wait_for_newer(&self, turn: Turn) -> Result<(), DurableError> {
        let until = Instant::now() + turn.patience();
        while let Some(newer) = self.above(turn) {
            let left = until.saturating_duration_since(Instant::now());
            if !newer.may_end || left.is_zero() {
                return Err(DurableError::HeldBack { what: self.what.clone(), newer: newer.id });
            }
            // Some that count are not of this process's doing: looked at now and then.
            self.owner.unpaid.wait(left.min(Duration::from_millis(50)));
        }
        Ok(())
    }

    /// What holds it back.
    fn above(&self, turn: Turn) -> Option<Newer> {
        let (unpaid, journal) = (&self.owner.unpaid, &self.owner.run.journal);
        self.destroys.then(|| unpaid.above(journal, self.of.scope, self.id(), turn)).flatten()
    }

    fn failed(&self, error: &ActionError) -> DurableError {
        DurableError::Failed { what: self.what.clone(), why: error.to_string() }
    }
}
