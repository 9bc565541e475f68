//! Paying a stack: newest first, each cleanup isolated from the others.

use std::cell::Cell;
use std::panic::resume_unwind;

use crate::boundary::raised_by;
use crate::chain::{Chain, Mark, Payload};
use crate::cleanup::{BoxError, CleanupError};
use crate::ending::{Ending, How, More, Wrong};
use crate::record::{Finished, Live, Registration};
use crate::report::Place;
use crate::stack::{Stack, Top};

/// Pays what a scope owes, and what its cleanups register meanwhile.
pub(crate) fn scope<'env, R>(
    owed: &mut Stack<'env, Ending<'env, R>>,
    ending: &mut Ending<'env, R>,
    live: &Live,
) {
    while !owed.is_empty() {
        let running = Cell::new(None);
        // One catch for all of them, as long as none raises.
        let raised = raised_by(|| {
            while let Some(top) = owed.pop() {
                live.paid(top.id);
                // SAFETY: it was just popped from a stack whose closures take this `Ending`.
                unsafe { one(top, ending, &running) };
                if let Some(more) = ending.take_more() {
                    rest(more, ending);
                }
            }
        });
        if let Some(newer) = raised {
            overtaken(newer, ending, &running);
            if let Some(more) = ending.take_more() {
                rest(more, ending);
            }
        }
    }
}

/// Pays what the last cleanup registered, and what that registers, newest first.
#[cold]
pub(crate) fn rest<'env, R>(more: More<'env, R>, ending: &mut Ending<'env, R>) {
    // Not by recursion: a cleanup may register the next one a million times over.
    let mut stacks = vec![more];
    while !stacks.is_empty() {
        let running = Cell::new(None);
        let raised = raised_by(|| {
            while let Some(newest) = stacks.last_mut() {
                let Some(top) = newest.pop() else {
                    stacks.pop();
                    continue;
                };
                // Kept until the closure has been run: it lies in there.
                let emptied = if newest.is_empty() { stacks.pop() } else { None };
                // SAFETY: as in `scope`.
                unsafe { one(top, ending, &running) };
                drop(emptied);
                stacks.extend(ending.take_more());
            }
        });
        if let Some(newer) = raised {
            overtaken(newer, ending, &running);
            stacks.extend(ending.take_more());
        }
    }
}

/// Which cleanup is running: its place on record.
type Running = Cell<Option<Registration>>;

/// Runs one cleanup of a scope.
///
/// # Safety
///
/// `top` comes from a stack whose closures take this kind of `Ending`, and nothing was pushed onto
/// or popped from that stack since.
#[inline]
unsafe fn one<R>(top: Top, ending: &mut Ending<'_, R>, running: &Running) {
    let place = top.place;
    // SAFETY: this function's contract.
    let error = unsafe { run_on_record(top, ending, running) };
    ending.ran(Place(place), error);
}

/// Runs one cleanup, and tells the record what became of it, unless it raises.
///
/// # Safety
///
/// `top` comes from a stack whose closures take an `A`, and nothing was pushed onto or popped from that
/// stack since.
#[inline(always)]
unsafe fn run_on_record<A>(mut top: Top, argument: &mut A, running: &Running) -> Option<BoxError> {
    let recorded = top.registration.is_on_record();
    if recorded {
        running.set(Some(std::mem::take(&mut top.registration)));
    }
    // SAFETY: this function's contract.
    let error = unsafe { top.run(argument) };
    if recorded && let Some(mut registration) = running.take() {
        registration.finish(if error.is_some() { Finished::Failed } else { Finished::Ran });
    }
    error
}

fn record_panic(running: &Running) {
    if let Some(mut registration) = running.take() {
        registration.finish(Finished::Panicked);
    }
}

#[cold]
fn overtaken<R>(newer: Chain, ending: &mut Ending<'_, R>, running: &Running) {
    record_panic(running);
    ending.overtaken(Some(newer));
}

/// Runs a single cleanup of a scope, and what it registers.
///
/// # Safety
///
/// As [`one`].
pub(crate) unsafe fn single<R>(top: Top, ending: &mut Ending<'_, R>) {
    let running = Cell::new(None);
    // SAFETY: this function's contract.
    if let Some(newer) = raised_by(|| unsafe { one(top, ending, &running) }) {
        overtaken(newer, ending, &running);
    }
    if let Some(more) = ending.take_more() {
        rest(more, ending);
    }
}

/// Pays a pile. Returns what its cleanups raised.
pub(crate) fn pile(owed: &mut Stack<'_, How>, mut how: How, errors: &mut Vec<CleanupError>) -> Raised {
    let mark = Mark::here();
    let mut chain = Chain::default();
    while !owed.is_empty() {
        let running: Running = Cell::new(None);
        let raised = raised_by(|| {
            while let Some(top) = owed.pop() {
                let place = top.place;
                // SAFETY: it was just popped from a stack whose closures take a `How`.
                if let Some(error) = unsafe { run_on_record(top, &mut how, &running) } {
                    errors.push(CleanupError::new(Place(place), error));
                }
            }
        });
        if let Some(newer) = raised {
            record_panic(&running);
            chain.append(newer);
        }
    }
    Raised { chain, mark }
}

/// What a pile's cleanups raised.
pub(crate) struct Raised {
    chain: Chain,
    mark: Mark,
}

impl Raised {
    pub(crate) fn new(chain: Chain, mark: Mark) -> Raised {
        Raised { chain, mark }
    }

    pub(crate) fn is_any(&self) -> bool {
        !self.chain.is_empty()
    }

    /// Raises the newest, if there is any.
    pub(crate) fn raise_if_any(self) {
        if !self.chain.is_empty() {
            self.chain.raise(self.mark);
        }
    }

    /// Leaves it to the boundary of the function that is left.
    #[inline]
    pub(crate) fn keep_late(self) {
        if !self.chain.is_empty() {
            self.chain.keep_late(self.mark);
        }
    }

    /// The same from a destructor, where the thread may be unwinding already.
    #[inline]
    pub(crate) fn raise_or_keep(self) {
        if self.chain.is_empty() {
            return;
        }
        if std::thread::panicking() { self.chain.overtake(self.mark) } else { self.chain.raise(self.mark) }
    }
}

/// The end of a scope: what it returns, or the chain, raised.
#[inline(always)]
pub(crate) fn conclude<R>(mark: Mark, mut ending: Ending<'_, R>) -> (R, Vec<CleanupError>) {
    match ending.conclude() {
        Ok(result) => (result, Vec::new()),
        Err(wrong) => conclude_wrong(mark, wrong),
    }
}

/// The same for what went wrong. The raising is done in the caller's frame: the unwinder has to go
/// through every one there is.
#[inline(always)]
pub(crate) fn conclude_wrong<R>(mark: Mark, wrong: Wrong<R>) -> (R, Vec<CleanupError>) {
    match settle_wrong(mark, wrong) {
        Ok(done) => done,
        Err(payload) => resume_unwind(payload),
    }
}

/// The end of what no scope's result waits for: errors are reported, panics raised.
pub(crate) fn conclude_open<R>(mark: Mark, mut ending: Ending<'_, R>) {
    let Err(Wrong { chain, errors, .. }) = ending.conclude() else { return };
    errors.iter().for_each(CleanupError::report);
    Raised { chain, mark }.raise_if_any();
}

#[cold]
#[inline(never)]
fn settle_wrong<R>(mark: Mark, wrong: Wrong<R>) -> Result<(R, Vec<CleanupError>), Payload> {
    let (mut chain, errors) = (wrong.chain, wrong.errors);
    if let Some(result) = wrong.result {
        if chain.is_empty() {
            return Ok((result, errors));
        }
        // Not while unwinding: a destructor that panics would abort the process.
        if let Some(newer) = raised_by(|| drop(result)) {
            chain.append(newer);
        }
    }
    errors.iter().for_each(CleanupError::report);
    Err(chain.into_raised(mark))
}
