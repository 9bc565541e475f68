//! Paying a stack: newest first, each cleanup isolated from the others.

use crate::boundary::attempt;
use crate::chain::{Chain, Mark};
use crate::cleanup::{BoxError, CleanupError};
use crate::ending::{Ending, How};
use crate::record::{Finished, Live};
use crate::stack::{Stack, Top};

/// Pays what a scope owes, and what its cleanups register meanwhile.
pub(crate) fn scope<'env, R>(
    owed: &mut Stack<'env, Ending<'env, R>>,
    ending: &mut Ending<'env, R>,
    live: &Live,
) {
    while let Some(top) = owed.pop() {
        live.paid(top.id);
        // SAFETY: it was just popped from a stack whose closures take this `Ending`.
        unsafe { one(top, ending) };
        rest(ending);
    }
}

/// Pays what the last cleanup registered, and what that registers, newest first.
pub(crate) fn rest<R>(ending: &mut Ending<'_, R>) {
    if ending.more.is_none() {
        return;
    }
    // Not by recursion: a cleanup may register the next one a million times over.
    let mut stacks: Vec<_> = ending.more.take().into_iter().collect();
    while let Some(newest) = stacks.last_mut() {
        let Some(top) = newest.pop() else {
            stacks.pop();
            continue;
        };
        if newest.is_empty() {
            // Kept until the closure has been run: it lies in there.
            let stack = stacks.pop();
            // SAFETY: as in `scope`.
            unsafe { one(top, ending) };
            drop(stack);
        } else {
            // SAFETY: as in `scope`.
            unsafe { one(top, ending) };
        }
        stacks.extend(ending.more.take());
    }
}

/// Pays one cleanup of a scope.
///
/// # Safety
///
/// `top` comes from a stack whose closures take this kind of `Ending`, and nothing was pushed onto
/// or popped from that stack since.
pub(crate) unsafe fn one<R>(mut top: Top, ending: &mut Ending<'_, R>) {
    let mut registration = std::mem::take(&mut top.registration);
    let place = top.place;
    // SAFETY: this function's contract.
    match attempt(Mark::here(), || unsafe { top.run(ending) }) {
        Ok(error) => {
            ending.chain.forget_recovered();
            registration.finish(finished(&error));
            ending.errors.extend(error.map(|error| CleanupError::new(place, error)));
        }
        Err(newer) => {
            registration.finish(Finished::Panicked);
            ending.chain.append(newer);
        }
    }
}

/// Pays a pile. Returns what its cleanups raised.
pub(crate) fn pile(owed: &mut Stack<'_, How>, mut how: How, errors: &mut Vec<CleanupError>) -> Raised {
    let mark = Mark::here();
    let mut chain = Chain::default();
    while let Some(mut top) = owed.pop() {
        let mut registration = std::mem::take(&mut top.registration);
        let place = top.place;
        // SAFETY: it was just popped from a stack whose closures take a `How`.
        match attempt(Mark::here(), || unsafe { top.run(&mut how) }) {
            Ok(error) => {
                registration.finish(finished(&error));
                errors.extend(error.map(|error| CleanupError::new(place, error)));
            }
            Err(newer) => {
                registration.finish(Finished::Panicked);
                chain.append(newer);
            }
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
#[inline]
pub(crate) fn conclude<R>(mark: Mark, mut ending: Ending<'_, R>) -> (R, Vec<CleanupError>) {
    let (result, chain, errors) = ending.take();
    conclude_parts(mark, result, chain, errors)
}

#[inline]
pub(crate) fn conclude_parts<R>(
    mark: Mark,
    result: Option<R>,
    chain: Chain,
    errors: Vec<CleanupError>,
) -> (R, Vec<CleanupError>) {
    match (result, chain, errors) {
        (Some(result), chain, errors) if chain.is_empty() => (result, errors),
        (result, chain, errors) => raise(mark, chain, result, errors),
    }
}

#[cold]
fn raise<R>(mark: Mark, mut chain: Chain, unused: Option<R>, errors: Vec<CleanupError>) -> ! {
    errors.iter().for_each(CleanupError::report);
    // Not while unwinding: a destructor that panics would abort the process.
    if let Err(newer) = attempt(Mark::here(), || drop(unused)) {
        chain.append(newer);
    }
    chain.raise(mark)
}

fn finished(error: &Option<BoxError>) -> Finished {
    if error.is_some() { Finished::Failed } else { Finished::Ran }
}
