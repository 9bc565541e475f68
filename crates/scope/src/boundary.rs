//! The boundary: where panics stop, and where their chain is put together.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::chain::{Chain, Link, Mark};
use crate::ending::Ending;

/// What a boundary caught: the chain of panics, to look at or to raise again.
pub struct Caught {
    chain: Chain,
    mark: Mark,
}

impl Caught {
    #[cold]
    fn boxed(payload: crate::Payload, mark: Mark) -> Box<Caught> {
        Box::new(Caught { chain: mark.chain_of(payload), mark })
    }

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
        Ok(result) if mark.is_settled() => Ok(result),
        Ok(result) => match mark.settle() {
            None => Ok(result),
            Some(chain) => Err(Caught { chain: dispose(result, chain), mark }),
        },
        Err(payload) => Err(Caught { chain: mark.chain_of(payload), mark }),
    }
}

/// [`catch`] where the good path counts: what was caught is behind a pointer, so that the result is
/// small.
#[doc(hidden)]
#[inline(always)]
pub fn catch_boxed<R>(body: impl FnOnce() -> R) -> Result<R, Box<Caught>> {
    let mark = Mark::here();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) if mark.is_settled() => Ok(result),
        Ok(result) => match mark.settle() {
            None => Ok(result),
            Some(chain) => Err(Box::new(Caught { chain: dispose(result, chain), mark })),
        },
        Err(payload) => Err(Caught::boxed(payload, mark)),
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
#[inline(always)]
pub(crate) fn attempt_into<'env, R>(mark: Mark, ending: &mut Ending<'env, R>, body: impl FnOnce() -> R) {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => {
            ending.replace(result);
            if !mark.is_settled() {
                ending.overtaken(mark.settle());
            }
        }
        Err(payload) => ending.overtaken(Some(mark.chain_of(payload))),
    }
}

/// Runs something that belongs to an ending: what it raises is put on top of what is in flight.
#[inline(always)]
pub(crate) fn within<'env, R, T>(
    ending: &mut Ending<'env, R>,
    body: impl FnOnce(&mut Ending<'env, R>) -> T,
) -> Option<T> {
    let mark = Mark::here();
    match catch_unwind(AssertUnwindSafe(|| body(&mut *ending))) {
        Ok(done) => {
            if !mark.is_settled() {
                ending.overtaken(mark.settle());
            }
            Some(done)
        }
        Err(payload) => {
            ending.overtaken(Some(mark.chain_of(payload)));
            None
        }
    }
}

/// Runs `body`; gives back what it raised.
#[inline(always)]
pub(crate) fn raised_by(body: impl FnOnce()) -> Option<Chain> {
    let mark = Mark::here();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(()) if mark.is_settled() => None,
        Ok(()) => mark.settle(),
        Err(payload) => Some(mark.chain_of(payload)),
    }
}
