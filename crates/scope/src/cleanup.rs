//! What a cleanup may return, and how its error is kept.

use std::error::Error;
use std::fmt;

use crate::report;

/// The type a cleanup may have: `()`, or `Result<(), E>` whose error is kept.
///
/// Implemented for nothing else on purpose: a closure or a function *value* given to
/// [`defer!`](crate::defer) would compile and never run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a cleanup",
    label = "a cleanup is of type `()` or `Result<(), E>`",
    note = "a function must be called: `defer!(f())`, not `defer!(f)`",
    note = "a value that is not wanted is dropped: `defer!(drop(f()))`"
)]
pub trait CleanupResult {
    /// The error, if the cleanup failed.
    fn into_error(self) -> Option<Box<dyn Error + Send + Sync>>;
}

impl CleanupResult for () {
    fn into_error(self) -> Option<Box<dyn Error + Send + Sync>> {
        None
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> CleanupResult for Result<(), E> {
    fn into_error(self) -> Option<Box<dyn Error + Send + Sync>> {
        self.err().map(Into::into)
    }
}

/// One cleanup that returned an error, and where it was registered.
#[derive(Debug)]
#[non_exhaustive]
pub struct CleanupError {
    /// `file:line` of the registration.
    pub place: String,
    /// What the cleanup returned.
    pub error: Box<dyn Error + Send + Sync>,
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
pub struct CleanupErrors(pub(crate) Vec<CleanupError>);

impl CleanupErrors {
    /// Each error with its place, in the order in which the cleanups ran.
    pub fn errors(&self) -> &[CleanupError] {
        &self.0
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

/// Where `defer!` leaves its cleanup's value.
#[inline(always)]
pub fn keep(value: impl CleanupResult, place: &'static str) {
    if let Some(error) = value.into_error() {
        report::failed(place, &*error);
    }
}
