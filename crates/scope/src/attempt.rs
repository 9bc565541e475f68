//! What `#[scoped]` turns a cleanup into that looks at the ending: the rest of the function is
//! attempted, the cleanup follows as inline code, and the attempt is concluded.
//!
//! The cleanup is built after the rest has run, so it holds no borrow meanwhile.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::attempt_async::AsyncAttempt;
use crate::boundary::{attempt_into, within};
use crate::chain::Mark;
use crate::cleanup::{BoxError, CleanupError, CleanupErrors, CleanupResult};
use crate::ending::{Ending, How};
use crate::pay;
use crate::pile::Kept;

/// The rest of a function, which has run.
pub struct Attempt<'env, R> {
    ending: Ending<'env, R>,
    mark: Mark,
}

fn never_fails<R>(_: &R) -> bool {
    false
}

impl<'env, R> Attempt<'env, R> {
    /// Nothing has run yet. Used where it stands: to move it would cost more than all the rest.
    #[inline(always)]
    #[expect(clippy::new_without_default, reason = "of use to `#[scoped]` only")]
    pub fn new() -> Self {
        Attempt { ending: Ending::without_result(never_fails), mark: Mark::here() }
    }

    /// Runs the rest of the function.
    #[inline(always)]
    pub fn run(&mut self, rest: impl FnOnce() -> R) {
        attempt_into(self.mark, &mut self.ending, rest);
    }

    /// Tells how to see that a result is a failure.
    #[inline]
    pub fn set_failed(&mut self, failed: fn(&R) -> bool) {
        self.ending.set_failed(failed);
    }

    /// The type of what the function returns.
    #[inline(always)]
    pub fn kind(&self) -> Kind<R> {
        Kind(PhantomData)
    }

    /// Tells whether the result can hold the errors of cleanups, and which there are already.
    #[inline(always)]
    pub fn set_holds(&mut self, holds: bool, errors: &Errors) {
        if holds {
            self.ending.set_holds(errors.any());
        }
    }

    /// Runs a cleanup that looks at the ending.
    #[inline]
    pub fn pay<C: CleanupResult>(
        &mut self,
        place: &'static str,
        cleanup: impl FnOnce(&mut Ending<'env, R>) -> C,
    ) {
        pay_inline(place, cleanup, &mut self.ending);
    }

    /// Runs a cleanup if the function is left by anything but `Ok`.
    #[inline]
    pub fn pay_err<C: CleanupResult>(&mut self, place: &'static str, cleanup: impl FnOnce() -> C) {
        if self.ending.how().is_failure() {
            self.pay(place, |_| cleanup());
        }
    }

    /// Runs a cleanup if the function returns, and not with `Err`.
    #[inline]
    pub fn pay_ok<C: CleanupResult>(&mut self, place: &'static str, cleanup: impl FnOnce() -> C) {
        if self.ending.how() == How::Returned {
            self.pay(place, |_| cleanup());
        }
    }

    /// Runs what a statement before the rest has piled up.
    pub fn pay_all(&mut self, pile: EndingPile<'env, R>) {
        let mut owed = pile.0.take_all();
        pay::scope(&mut owed, &mut self.ending, &Default::default());
    }

    /// What the function returns, or the chain, raised. Errors of cleanups are reported.
    #[inline(always)]
    pub fn finish(&mut self) -> R {
        self.ending.conclude().unwrap_or_else(|wrong| {
            let (result, errors) = pay::conclude_wrong(self.mark, wrong);
            errors.iter().for_each(CleanupError::report);
            result
        })
    }

    /// The same; errors of cleanups are kept for the function's result.
    #[inline(always)]
    pub fn finish_into(&mut self, all: &Errors) -> R {
        self.ending.conclude().unwrap_or_else(|wrong| {
            let (result, errors) = pay::conclude_wrong(self.mark, wrong);
            errors.into_iter().for_each(|error| all.push(error));
            result
        })
    }
}

/// Runs a cleanup that is inline code, and what it registers.
#[inline(always)]
pub(crate) fn pay_inline<'env, R, C: CleanupResult>(
    place: &'static str,
    cleanup: impl FnOnce(&mut Ending<'env, R>) -> C,
    ending: &mut Ending<'env, R>,
) {
    if let Some(error) = within(ending, |ending| cleanup(ending).into_error()) {
        ending.ran(place, error);
    }
    if let Some(more) = ending.take_more() {
        pay::rest(more, ending);
    }
}

/// Cleanups of a loop or a branch of which at least one looks at the ending.
pub struct EndingPile<'a, R>(crate::stack::Stack<'a, Ending<'a, R>>);

impl<'a, R> EndingPile<'a, R> {
    /// A pile that owes nothing.
    #[expect(clippy::new_without_default, reason = "of use to `#[scoped]` only")]
    pub const fn new() -> Self {
        EndingPile(crate::stack::Stack::new())
    }

    /// Owes a cleanup that looks at the ending.
    #[track_caller]
    pub fn defer_with<C: CleanupResult>(&self, cleanup: impl FnOnce(&mut Ending<'a, R>) -> C + 'a) {
        let place = std::panic::Location::caller();
        let registration = crate::record::Registration::new("scoped", place);
        self.0.push(move |end| cleanup(end).into_error(), place, registration);
    }

    /// Owes a cleanup.
    #[track_caller]
    pub fn defer<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'a) {
        self.defer_with(move |_| cleanup());
    }

    /// Owes a cleanup with the value it ends, which stays usable meanwhile.
    #[track_caller]
    #[expect(clippy::mut_from_ref, reason = "as for `Pile::keep`")]
    pub fn keep<T: 'a, C: CleanupResult>(&self, value: T, cleanup: impl FnOnce(T) -> C + 'a) -> &mut T {
        let (mut value, owner) = Kept::new(value);
        self.defer(move || cleanup(owner.take()));
        // SAFETY: as in `Pile::keep`.
        unsafe { value.as_mut() }
    }

    /// Owes a cleanup for anything but `Ok`.
    #[track_caller]
    pub fn defer_err<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'a) {
        self.defer_with(move |end| {
            end.how().is_failure().then(cleanup).and_then(C::into_error).map_or(Ok(()), Err)
        });
    }

    /// Owes a cleanup for a return that is not `Err`.
    #[track_caller]
    pub fn defer_ok<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'a) {
        self.defer_with(move |end| {
            (end.how() == How::Returned).then(cleanup).and_then(C::into_error).map_or(Ok(()), Err)
        });
    }
}

/// The errors of a function's guards and piles, for its result.
///
/// Reported when dropped: where the result's type cannot hold them, and on a panic.
#[derive(Default)]
pub struct Errors {
    all: Mutex<Vec<CleanupError>>,
    /// There is one: asked far more often than there is.
    any: AtomicBool,
}

impl Errors {
    /// No errors.
    #[inline]
    pub const fn new() -> Errors {
        Errors { all: Mutex::new(Vec::new()), any: AtomicBool::new(false) }
    }

    /// Keeps what a cleanup returned.
    #[inline(always)]
    pub fn keep(&self, value: impl CleanupResult, place: &'static str) {
        if let Some(error) = value.into_error() {
            self.add(error, place);
        }
    }

    #[cold]
    fn add(&self, error: BoxError, place: &'static str) {
        self.push(CleanupError::new(place, error));
    }

    #[cold]
    pub(crate) fn push(&self, error: CleanupError) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(error);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Whether there is one.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    #[inline]
    fn take(&mut self) -> Vec<CleanupError> {
        std::mem::take(self.all.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Errors {
    #[inline]
    fn drop(&mut self) {
        self.take().iter().for_each(CleanupError::report);
    }
}

/// Calls the rest of a function. A closure that is called where it stands could not return what it
/// borrows mutably.
#[inline(always)]
pub fn call_once<R>(rest: impl FnOnce() -> R) -> R {
    rest()
}

/// The same for the rest of an `async fn`.
#[inline(always)]
pub async fn call_async<R>(rest: impl AsyncFnOnce() -> R) -> R {
    rest().await
}

/// The type of a result. Of two traits with the same method the compiler takes the first that fits:
/// the one for `Kind` itself, then the one for a reference to it.
pub struct Kind<R>(PhantomData<fn() -> R>);

impl<R> Kind<R> {
    /// The type of this result.
    #[inline]
    pub fn of(_: &R) -> Kind<R> {
        Kind(PhantomData)
    }

    /// The type of what this attempt returns.
    #[inline]
    pub fn of_attempt(_: &Attempt<'_, R>) -> Kind<R> {
        Kind(PhantomData)
    }

    /// The type of what this attempt returns.
    #[inline]
    pub fn of_async_attempt(_: &AsyncAttempt<R>) -> Kind<R> {
        Kind(PhantomData)
    }
}

/// For a `Result`, of whatever error.
pub trait CanFail<R> {
    /// Whether a result is a failure.
    fn failed(&self) -> fn(&R) -> bool;
}

impl<T, E> CanFail<Result<T, E>> for Kind<Result<T, E>> {
    fn failed(&self) -> fn(&Result<T, E>) -> bool {
        Result::is_err
    }
}

/// For every other type.
pub trait CannotFail<R> {
    /// No result is a failure.
    fn failed(&self) -> fn(&R) -> bool;
}

impl<R> CannotFail<R> for &Kind<R> {
    #[inline]
    fn failed(&self) -> fn(&R) -> bool {
        |_| false
    }
}

/// For a `Result` whose error can be made from [`CleanupErrors`].
pub trait CanHold {
    /// How the errors of cleanups get into it.
    fn holds(&self) -> Joins;
}

impl<T, E: From<CleanupErrors>> CanHold for Kind<Result<T, E>> {
    #[inline]
    fn holds(&self) -> Joins {
        Joins
    }
}

/// For every other type.
pub trait CannotHold {
    /// Where the errors of cleanups go.
    fn holds(&self) -> Reports;
}

impl<R> CannotHold for &Kind<R> {
    #[inline]
    fn holds(&self) -> Reports {
        Reports
    }
}

/// Errors of cleanups become part of the result.
pub struct Joins;

/// Errors of cleanups are reported.
pub struct Reports;

impl Joins {
    /// Whether the errors become part of the result.
    #[inline(always)]
    pub fn joins(&self) -> bool {
        true
    }

    /// The result with the errors.
    #[inline]
    pub fn join<T, E: From<CleanupErrors>>(self, result: Result<T, E>, mut errors: Errors) -> Result<T, E> {
        match CleanupErrors::new(errors.take()) {
            None => result,
            Some(errors) => errors.join(result),
        }
    }
}

impl Reports {
    /// Whether the errors become part of the result.
    #[inline(always)]
    pub fn joins(&self) -> bool {
        false
    }

    /// The result as it is.
    #[inline]
    pub fn join<R>(self, result: R, errors: Errors) -> R {
        drop(errors);
        result
    }
}
