//! The boundary: where panics stop, and where their chain is put together.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::chain::{Chain, Link, Mark};

/// What a boundary caught: the chain of panics, to look at or to raise again.
pub struct Caught {
    chain: Chain,
    mark: Mark,
}

impl Caught {
    /// The panics, oldest first; the last one is current.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The messages of all links, oldest first, `; then ` between them.
    pub fn describe(&self) -> String {
        self.chain.links().iter().map(Link::describe).collect::<Vec<_>>().join("; then ")
    }

    /// The chain, to keep. What it holds is settled: nothing of it is raised again.
    pub fn into_chain(self) -> Chain {
        self.chain
    }

    /// Raises the newest panic again. The panic hook does not run a second time, and the next
    /// boundary finds the whole chain.
    pub fn raise(self) -> ! {
        self.chain.raise(self.mark)
    }
}

/// Runs `body` and catches whatever it raises, with every panic that its cleanups raised on the
/// way. A drop-in for [`std::panic::catch_unwind`] that loses no panic.
///
/// # Errors
///
/// [`Caught`] when `body` panicked or [exited its task](crate::task::exit_task).
///
/// # Examples
///
/// ```
/// use epilogue_scope::{catch, defer};
///
/// fn fail(why: &'static str) {
///     std::panic::resume_unwind(Box::new(why))
/// }
///
/// let caught = catch(|| {
///     defer!(fail("the cleanup failed too"));
///     fail("the body failed");
/// }).err().unwrap();
/// let chain: Vec<_> = caught.chain().links().iter().map(|link| link.describe()).collect();
/// assert_eq!(chain, ["the body failed", "the cleanup failed too"]);
/// ```
pub fn catch<R>(body: impl FnOnce() -> R) -> Result<R, Caught> {
    let mark = Mark::here();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => match mark.settle() {
            None => Ok(result),
            Some(chain) => Err(Caught { chain: dispose(result, chain), mark }),
        },
        Err(payload) => Err(Caught { chain: mark.chain_of(payload), mark }),
    }
}

/// Drops a result that is not returned, because a panic is.
#[cold]
fn dispose<R>(result: R, mut chain: Chain) -> Chain {
    let mark = Mark::here();
    if let Err(newer) = catch_unwind(AssertUnwindSafe(|| drop(result))) {
        chain.append(mark.chain_of(newer));
    }
    chain
}

/// The same for the boundary of a function's own: what it has returned is kept beside the panics of
/// its guards, for a cleanup that recovers them.
#[inline]
pub(crate) fn attempt_keeping<R>(mark: Mark, body: impl FnOnce() -> R) -> (Option<R>, Chain) {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => (Some(result), mark.settle().unwrap_or_default()),
        Err(payload) => (None, mark.chain_of(payload)),
    }
}

/// The same for this crate's own boundaries, which keep the chain and the mark apart.
#[inline]
pub(crate) fn attempt<R>(mark: Mark, body: impl FnOnce() -> R) -> Result<R, Chain> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => match mark.settle() {
            None => Ok(result),
            Some(chain) => Err(dispose(result, chain)),
        },
        Err(payload) => Err(mark.chain_of(payload)),
    }
}
