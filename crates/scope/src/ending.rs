//! How a scope ended, as its cleanups see it.

use std::fmt;
use std::panic::Location;

use crate::chain::{Chain, Link, Payload};
use crate::cleanup::{BoxError, CleanupError, CleanupResult};
use crate::record::Registration;
use crate::stack::Stack;

/// How a scope is being left at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum How {
    /// The body returned a result. From a plain [`scope`](crate::scope) that may be an `Err` too:
    /// it cannot tell.
    Returned,
    /// The body returned `Err`, and the scope can tell: [`try_scope`](crate::try_scope),
    /// `try_async_scope`, `#[scoped]`. Or it returned `Ok`, and the error of a cleanup that ran before
    /// makes an `Err` of that.
    Failed,
    /// A panic is in flight.
    Panicked,
    /// The task is being exited.
    TaskExited,
    /// The future that was the body was dropped before its end.
    Cancelled,
    /// Nobody looks at the result: the cleanups were moved to a [`Pile`](crate::Pile), which was
    /// dropped.
    Dropped,
    /// The scope is not being left: the cleanup was asked to
    /// [run now](crate::Scope::run_now).
    Open,
}

impl How {
    /// Anything but a body that returned `Ok`, as far as that is known: when `defer_err!` runs.
    pub fn is_failure(self) -> bool {
        !matches!(self, How::Returned | How::Open | How::Dropped)
    }

    #[inline]
    pub(crate) fn of<R>(chain: &Chain, result: Option<&R>, failed: fn(&R) -> bool, otherwise: How) -> How {
        if chain.exits_task() {
            How::TaskExited
        } else if !chain.is_empty() {
            How::Panicked
        } else {
            How::of_result(result, failed, otherwise)
        }
    }

    #[inline]
    pub(crate) fn of_result<R>(result: Option<&R>, failed: fn(&R) -> bool, otherwise: How) -> How {
        match result {
            Some(result) if failed(result) => How::Failed,
            Some(_) => How::Returned,
            None => otherwise,
        }
    }
}

/// The ending of a scope, given to each of its cleanups in turn: what the body returned, or which
/// panic is in flight. A cleanup may replace the result and may recover the panic; the cleanups
/// below it then see that.
///
/// Recovering needs this handle, and only a cleanup is given it, for as long as it runs: what Go
/// needs rules for about how deep `recover` may be called, the types say here.
pub struct Ending<'env, R> {
    result: Option<R>,
    /// `None` where all is well: the one thing to be tested on the good path.
    trouble: Slot<'env, R>,
    /// How it ended where there is neither a result nor a panic.
    otherwise: How,
    failed: fn(&R) -> bool,
    /// The errors of cleanups will be part of the result.
    holds: bool,
    /// There is one already, kept elsewhere.
    holds_one: bool,
}

/// A place for [`Trouble`], mostly empty, whose drop is small enough to be inlined.
struct Slot<'env, R>(Option<Box<Trouble<'env, R>>>);

impl<R> Drop for Slot<'_, R> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(trouble) = self.0.take() {
            drop_trouble(trouble);
        }
    }
}

#[cold]
#[inline(never)]
fn drop_trouble<R>(trouble: Box<Trouble<'_, R>>) {
    drop(trouble);
}

/// What most endings do not have.
struct Trouble<'env, R> {
    chain: Chain,
    errors: Vec<CleanupError>,
    /// What the cleanup that is running has registered.
    more: Option<More<'env, R>>,
}

/// What a cleanup has registered on the scope that is being left.
pub(crate) type More<'env, R> = Box<Stack<'env, Ending<'env, R>>>;

impl<'env, R> Ending<'env, R> {
    #[inline(always)]
    pub(crate) fn without_result(failed: fn(&R) -> bool) -> Self {
        Ending {
            result: None,
            trouble: Slot(None),
            otherwise: How::Dropped,
            failed,
            holds: false,
            holds_one: false,
        }
    }

    /// What an `async fn` kept apart while it awaited its cleanups.
    pub(crate) fn with(result: Option<R>, chain: Chain, failed: fn(&R) -> bool) -> Self {
        let mut ending = Ending::without_result(failed);
        ending.result = result;
        if !chain.is_empty() {
            ending.overtaken(Some(chain));
        }
        ending
    }

    /// An ending of which only the kind is known.
    pub(crate) fn known_only(how: How) -> Self {
        Ending {
            result: None,
            trouble: Slot(None),
            otherwise: how,
            failed: never::<R>,
            holds: false,
            holds_one: false,
        }
    }

    /// Which way the scope is being left.
    pub fn how(&self) -> How {
        let how = How::of(self.chain(), self.result.as_ref(), self.failed, self.otherwise);
        if how == How::Returned && self.holds && self.holds_an_error() { How::Failed } else { how }
    }

    /// What the scope will return; `None` while a panic or a task exit is in flight, and where there
    /// is no result.
    pub fn result(&self) -> Option<&R> {
        if self.chain().is_empty() { self.result.as_ref() } else { None }
    }

    /// The same, to be changed in place.
    pub fn result_mut(&mut self) -> Option<&mut R> {
        if self.chain().is_empty() { self.result.as_mut() } else { None }
    }

    /// Replaces what the scope will return. Without effect on a panic in flight: see
    /// [`recover_with`](Ending::recover_with).
    pub fn replace(&mut self, result: R) {
        self.result = Some(result);
    }

    /// The panic in flight, newest if there are several.
    #[inline]
    pub fn panic(&self) -> Option<&Link> {
        self.trouble.0.as_ref()?.chain.current()
    }

    /// All that is in flight, oldest first.
    #[inline]
    pub fn chain(&self) -> &Chain {
        self.trouble.0.as_deref().map_or(const { &Chain::new() }, |trouble| &trouble.chain)
    }

    /// Recovers the panic in flight, if there is one: the scope then returns what `recovered`
    /// makes of it. A task exit cannot be recovered; a panic above one can, and the task still exits.
    ///
    /// # Examples
    ///
    /// ```
    /// use epilogue_scope::{describe, scope};
    ///
    /// let answer = scope(|s| {
    ///     s.defer_with(|end| end.recover_with(|panic| describe(&*panic)));
    ///     std::panic::resume_unwind(Box::new("division by zero"));
    /// });
    /// assert_eq!(answer, "division by zero");
    /// ```
    pub fn recover_with(&mut self, recovered: impl FnOnce(Payload) -> R) {
        if let Some(payload) = self.take_panic() {
            self.result = Some(recovered(payload));
        }
    }

    /// Go's `recover()`: takes the panic in flight, if there is one. The scope then returns what its
    /// body had returned before a cleanup panicked, or else `R`'s default.
    ///
    /// # Examples
    ///
    /// ```
    /// use epilogue_scope::scope;
    ///
    /// let count: u32 = scope(|s| {
    ///     s.defer_with(|end| assert!(end.recover().is_some()));
    ///     std::panic::resume_unwind(Box::new("no"));
    /// });
    /// assert_eq!(count, 0);
    /// ```
    pub fn recover(&mut self) -> Option<Payload>
    where
        R: Default,
    {
        let payload = self.take_panic()?;
        self.result.get_or_insert_default();
        Some(payload)
    }

    /// Registers a cleanup on the scope that is being left: it runs next.
    #[track_caller]
    pub fn defer<C: CleanupResult>(&mut self, cleanup: impl FnOnce() -> C + 'env) {
        let place = Location::caller();
        let registration = Registration::new("scope", place);
        let more = self.trouble().more.get_or_insert_with(|| Box::new(Stack::new()));
        more.push(move |_: &mut Ending<'env, R>| cleanup().into_error(), place, registration);
    }

    /// A cleanup has run.
    #[inline(always)]
    pub(crate) fn ran(&mut self, place: impl fmt::Display, error: Option<BoxError>) {
        if self.trouble.0.is_some() || error.is_some() {
            self.ran_in_trouble(place, error);
        }
    }

    #[cold]
    fn ran_in_trouble(&mut self, place: impl fmt::Display, error: Option<BoxError>) {
        let trouble = self.trouble();
        trouble.chain.forget_recovered();
        trouble.errors.extend(error.map(|error| CleanupError::new(place, error)));
    }

    /// Something was raised on top of what is in flight.
    #[cold]
    pub(crate) fn overtaken(&mut self, newer: Option<Chain>) {
        if let Some(newer) = newer {
            self.trouble().chain.append(newer);
        }
    }

    /// What cleanups have registered that is not paid yet.
    #[inline(always)]
    pub(crate) fn take_more(&mut self) -> Option<More<'env, R>> {
        self.trouble.0.as_mut().and_then(|trouble| trouble.more.take())
    }

    pub(crate) fn errors(&mut self) -> &mut Vec<CleanupError> {
        &mut self.trouble().errors
    }

    fn take_panic(&mut self) -> Option<Payload> {
        self.trouble.0.as_mut()?.chain.recover()
    }

    #[cold]
    fn trouble(&mut self) -> &mut Trouble<'env, R> {
        self.trouble.0.get_or_insert_with(|| {
            Box::new(Trouble { chain: Chain::default(), errors: Vec::new(), more: None })
        })
    }

    fn holds_an_error(&self) -> bool {
        self.holds_one || self.trouble.0.as_ref().is_some_and(|trouble| !trouble.errors.is_empty())
    }

    /// The errors of cleanups become part of the result: a function that returned `Ok` has failed once
    /// there is one.
    #[inline(always)]
    pub(crate) fn set_holds(&mut self, one_already: bool) {
        (self.holds, self.holds_one) = (true, one_already);
    }

    #[inline(always)]
    pub(crate) fn set_failed(&mut self, failed: fn(&R) -> bool) {
        self.failed = failed;
    }

    /// The result, if nothing went wrong; else all there is.
    #[inline(always)]
    pub(crate) fn conclude(&mut self) -> Result<R, Wrong<R>> {
        let result = self.result.take();
        match result {
            Some(result) if self.trouble.0.is_none() => Ok(result),
            result => Err(Wrong::of(result, self.trouble.0.take())),
        }
    }
}

/// An ending in which something went wrong, or of which there is no result.
pub(crate) struct Wrong<R> {
    pub(crate) result: Option<R>,
    pub(crate) chain: Chain,
    pub(crate) errors: Vec<CleanupError>,
}

impl<R> Wrong<R> {
    #[cold]
    fn of(result: Option<R>, trouble: Option<Box<Trouble<'_, R>>>) -> Wrong<R> {
        match trouble {
            Some(trouble) => Wrong { result, chain: trouble.chain, errors: trouble.errors },
            None => Wrong { result, chain: Chain::default(), errors: Vec::new() },
        }
    }
}

fn never<R>(_: &R) -> bool {
    false
}
