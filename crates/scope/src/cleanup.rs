//! What a cleanup may return, and how its error is kept.

use std::error::Error;
use std::fmt;

use crate::report;

/// An error of any type, as cleanups return it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The type a cleanup may have: `()`, or `!`, or `Result<(), E>`, whose error is kept, with an `E` that
/// converts into `Box<dyn Error + Send + Sync>`: errors that are `Send` and `Sync`, `String`, `anyhow::Error`.
///
/// Implemented for nothing else on purpose: a closure or a function *value* given to
/// [`defer!`](crate::defer) would compile and never run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cleanup",
    label = "a cleanup is of type `()`, or `Result<(), E>` with an `E: Into<Box<dyn Error + Send + Sync>>`",
    note = "a function or a closure has to be called: `defer!(f())`, not `defer!(f)`; a future has to be awaited: `defer!(async {{ f().await }})`",
    note = "a value that is not wanted is dropped: `defer!(drop(f()))`"
)]
pub trait CleanupResult {
    /// The error, if the cleanup failed.
    fn into_error(self) -> Option<BoxError>;
}

impl CleanupResult for () {
    #[inline(always)]
    fn into_error(self) -> Option<BoxError> {
        None
    }
}

impl<E: Into<BoxError>> CleanupResult for Result<(), E> {
    #[inline]
    fn into_error(self) -> Option<BoxError> {
        self.err().map(Into::into)
    }
}

/// A cleanup such as a bare `panic!()` never returns.
impl CleanupResult for Never {
    fn into_error(self) -> Option<BoxError> {
        self
    }
}

/// The type `!`, which has no name in stable Rust outside of function signatures.
type Never = <fn() -> ! as Returns>::Type;

#[doc(hidden)]
pub trait Returns {
    type Type;
}

impl<T> Returns for fn() -> T {
    type Type = T;
}

/// One cleanup that returned an error, and where it was registered.
#[derive(Debug)]
#[non_exhaustive]
pub struct CleanupError {
    /// `file:line` of the registration.
    pub place: String,
    /// What the cleanup returned.
    pub error: BoxError,
}

impl CleanupError {
    /// An error of the cleanup that was registered at `place`.
    pub fn new(place: impl fmt::Display, error: BoxError) -> CleanupError {
        CleanupError { place: place.to_string(), error }
    }

    /// Gives the error to the [`report`] sink, because no result can hold it.
    #[cold]
    pub fn report(&self) {
        report::failed(&self.place, &*self.error);
    }
}

impl fmt::Display for CleanupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cleanup at {} failed", self.place)
    }
}

impl Error for CleanupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}

/// The errors of a scope's cleanups, in the order in which they ran; never empty.
#[derive(Debug)]
pub struct CleanupErrors(Vec<CleanupError>);

impl CleanupErrors {
    /// `None` when there are none.
    pub fn new(errors: Vec<CleanupError>) -> Option<CleanupErrors> {
        (!errors.is_empty()).then_some(CleanupErrors(errors))
    }

    /// Each error with its place, in the order in which the cleanups ran.
    pub fn errors(&self) -> &[CleanupError] {
        &self.0
    }

    /// Joins the errors to a result: `Ok` becomes `Err`; an `Err` stays as it is, and the errors of
    /// the cleanups go to the [`report`] sink.
    #[cold]
    pub fn join<T, E: From<CleanupErrors>>(self, result: Result<T, E>) -> Result<T, E> {
        match result {
            Ok(_) => Err(self.into()),
            Err(primary) => {
                self.0.iter().for_each(CleanupError::report);
                Err(primary)
            }
        }
    }
}

impl fmt::Display for CleanupErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}: {}", error.error)?;
        }
        Ok(())
    }
}

// No source: `Display` tells of every error, and a chain could follow only one.
impl Error for CleanupErrors {}

/// Where a plain `defer!` leaves its cleanup's value.
#[inline(always)]
pub fn keep(value: impl CleanupResult, place: &'static str) {
    if let Some(error) = value.into_error() {
        report::failed(place, &*error);
    }
}
