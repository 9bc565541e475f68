//! The scope as a plain function: a stack of cleanups that may look at the ending.

use std::cell::RefCell;
use std::panic::Location;

use crate::boundary::attempt;
use crate::chain::{Chain, Mark};
use crate::cleanup::{CleanupError, CleanupErrors, CleanupResult};
use crate::ending::Ending;
use crate::record::{Finished, Registration};
use crate::report;

/// Runs `body`, then what it registered on the scope, newest first, and returns what is left: the
/// body's result, what a cleanup put in its place, or the panic, raised again.
///
/// Cleanups run after the body has been left, so they see `std::thread::panicking() == false`
/// even when a panic is in flight, and code they call behaves as in a normal return. An error that
/// a cleanup returns goes to the [`report`](crate::report) sink; [`try_scope`] puts it into the
/// result instead.
///
/// # Panics
///
/// Raises the newest panic in flight that no cleanup recovered.
///
/// # Examples
///
/// ```
/// use epilogue_scope::scope;
///
/// let total = scope(|s| {
///     s.defer_with(|end| if end.result() == Some(&3) { end.replace(4) });
///     1 + 2
/// });
/// assert_eq!(total, 4);
/// ```
pub fn scope<'env, R>(body: impl FnOnce(&Scope<'env, R>) -> R) -> R {
    let (result, errors) = run(body);
    for failure in errors {
        report::failed(&failure.place, &*failure.error);
    }
    result
}

/// [`scope`] for a fallible body: an error of a cleanup is not lost in the sink.
///
/// # Errors
///
/// The body's own error stays as it is, and the cleanups' errors go to the
/// [`report`](crate::report) sink. Where the body returned `Ok`, the cleanups' errors become the
/// result, by `E: From<CleanupErrors>`.
///
/// # Panics
///
/// As [`scope`].
///
/// # Examples
///
/// ```
/// use epilogue_scope::{CleanupErrors, try_scope};
///
/// let saved: Result<u32, CleanupErrors> = try_scope(|s| {
///     s.defer(|| Err::<(), _>("the disk is full"));
///     Ok(7)
/// });
/// assert!(saved.unwrap_err().to_string().ends_with("failed: the disk is full"));
/// ```
pub fn try_scope<'env, T, E: From<CleanupErrors>>(
    body: impl FnOnce(&Scope<'env, Result<T, E>>) -> Result<T, E>,
) -> Result<T, E> {
    let (result, errors) = run(body);
    match result {
        Ok(_) if !errors.is_empty() => Err(CleanupErrors(errors).into()),
        result => {
            for failure in errors {
                report::failed(&failure.place, &*failure.error);
            }
            result
        }
    }
}

/// The stack of what a [`scope`] owes.
pub struct Scope<'env, R> {
    owed: RefCell<Vec<Owed<'env, R>>>,
}

impl<'env, R> Scope<'env, R> {
    /// Registers a cleanup, to run when the scope is left by any door.
    #[track_caller]
    pub fn defer<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'env) {
        self.push(Location::caller(), Box::new(move |_| cleanup().into_error()));
    }

    /// Registers a cleanup that looks at the ending, and may replace the result or recover.
    #[track_caller]
    pub fn defer_with<C: CleanupResult>(&self, cleanup: impl FnOnce(&mut Ending<R>) -> C + 'env) {
        self.push(Location::caller(), Box::new(move |end| cleanup(end).into_error()));
    }

    /// How many cleanups are pending.
    pub fn pending(&self) -> usize {
        self.owed.borrow().len()
    }

    fn push(&self, place: &'static Location<'static>, cleanup: Cleanup<'env, R>) {
        let registration = Registration::new("scope", place);
        self.owed.borrow_mut().push(Owed { cleanup, registration, place });
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Cleanup<'env, R> = Box<dyn FnOnce(&mut Ending<R>) -> Option<BoxError> + 'env>;

struct Owed<'env, R> {
    cleanup: Cleanup<'env, R>,
    registration: Registration,
    place: &'static Location<'static>,
}

fn run<'env, R>(body: impl FnOnce(&Scope<'env, R>) -> R) -> (R, Vec<CleanupError>) {
    let mark = Mark::here();
    let scope = Scope { owed: RefCell::new(Vec::new()) };
    let mut ending = Ending::new(attempt(mark, || body(&scope)));
    let errors = pay(scope.owed.into_inner(), &mut ending);
    finish(mark, ending, errors)
}

fn pay<R>(mut owed: Vec<Owed<'_, R>>, ending: &mut Ending<R>) -> Vec<CleanupError> {
    let mut errors = Vec::new();
    while let Some(next) = owed.pop() {
        let mut registration = next.registration;
        match attempt(Mark::here(), || (next.cleanup)(ending)) {
            Ok(None) => registration.finish(Finished::Ran),
            Ok(Some(error)) => {
                registration.finish(Finished::Failed);
                errors.push(CleanupError { place: next.place.to_string(), error });
            }
            Err(newer) => {
                registration.finish(Finished::Panicked);
                ending.chain.append(newer);
            }
        }
    }
    errors
}

fn finish<R>(mark: Mark, ending: Ending<R>, errors: Vec<CleanupError>) -> (R, Vec<CleanupError>) {
    match (ending.result, ending.chain) {
        (Some(result), chain) if chain.is_empty() => (result, errors),
        (_, chain) => raise(mark, chain, errors),
    }
}

#[cold]
fn raise(mark: Mark, chain: Chain, errors: Vec<CleanupError>) -> ! {
    for failure in errors {
        report::failed(&failure.place, &*failure.error);
    }
    chain.raise(mark)
}
