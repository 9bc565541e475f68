//! How a scope ended, as its cleanups see it.

use std::panic::Location;

use crate::chain::{Chain, Link, Payload};
use crate::cleanup::{CleanupError, CleanupResult};
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
    /// `try_async_scope`, `#[scoped]`.
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
            match result {
                Some(result) if failed(result) => How::Failed,
                Some(_) => How::Returned,
                None => otherwise,
            }
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
    pub(crate) chain: Chain,
    /// How it ended where there is neither a result nor a panic.
    otherwise: How,
    failed: fn(&R) -> bool,
    pub(crate) errors: Vec<CleanupError>,
    /// What the cleanup that is running has registered.
    pub(crate) more: Option<Box<Stack<'env, Ending<'env, R>>>>,
}

impl<'env, R> Ending<'env, R> {
    #[inline]
    pub(crate) fn new(outcome: Result<R, Chain>, failed: fn(&R) -> bool) -> Self {
        let (result, chain) = match outcome {
            Ok(result) => (Some(result), Chain::default()),
            Err(chain) => (None, chain),
        };
        Ending::with(result, chain, failed)
    }

    #[inline]
    pub(crate) fn with(result: Option<R>, chain: Chain, failed: fn(&R) -> bool) -> Self {
        Ending { result, chain, otherwise: How::Dropped, failed, errors: Vec::new(), more: None }
    }

    /// An ending of which only the kind is known.
    pub(crate) fn known_only(how: How) -> Self {
        Ending {
            result: None,
            chain: Chain::default(),
            otherwise: how,
            failed: never::<R>,
            errors: Vec::new(),
            more: None,
        }
    }

    /// Which way the scope is being left.
    pub fn how(&self) -> How {
        How::of(&self.chain, self.result.as_ref(), self.failed, self.otherwise)
    }

    /// What the scope will return; `None` while a panic or a task exit is in flight, and where there
    /// is no result.
    pub fn result(&self) -> Option<&R> {
        if self.chain.is_empty() { self.result.as_ref() } else { None }
    }

    /// The same, to be changed in place.
    pub fn result_mut(&mut self) -> Option<&mut R> {
        if self.chain.is_empty() { self.result.as_mut() } else { None }
    }

    /// Replaces what the scope will return. Without effect on a panic in flight: see
    /// [`recover_with`](Ending::recover_with).
    pub fn replace(&mut self, result: R) {
        self.result = Some(result);
    }

    /// The panic in flight, newest if there are several.
    pub fn panic(&self) -> Option<&Link> {
        self.chain.current()
    }

    /// All that is in flight, oldest first.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Recovers the panic in flight, if there is one: the scope then returns what `recovered`
    /// makes of it. Returns whether there was a panic. A task exit cannot be recovered; a panic
    /// above one can, and the task still exits.
    ///
    /// # Examples
    ///
    /// ```
    /// use epilogue_scope::{describe, scope};
    ///
    /// let answer = scope(|s| {
    ///     s.defer_with(|end| { end.recover_with(|panic| describe(&*panic)); });
    ///     std::panic::resume_unwind(Box::new("division by zero"));
    /// });
    /// assert_eq!(answer, "division by zero");
    /// ```
    pub fn recover_with(&mut self, recovered: impl FnOnce(Payload) -> R) -> bool {
        let Some(payload) = self.chain.recover() else { return false };
        self.result = Some(recovered(payload));
        true
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
        let payload = self.chain.recover()?;
        self.result.get_or_insert_default();
        Some(payload)
    }

    /// Registers a cleanup on the scope that is being left: it runs next.
    #[track_caller]
    pub fn defer<C: CleanupResult>(&mut self, cleanup: impl FnOnce() -> C + 'env) {
        let place = Location::caller();
        let registration = Registration::new("scope", place);
        let more = self.more.get_or_insert_with(|| Box::new(Stack::new()));
        more.push(move |_: &mut Ending<'env, R>| cleanup().into_error(), place, registration);
    }

    #[inline]
    pub(crate) fn set_failed(&mut self, failed: fn(&R) -> bool) {
        self.failed = failed;
    }

    /// Takes the result apart from what may be in flight.
    pub(crate) fn take(&mut self) -> (Option<R>, Chain, Vec<CleanupError>) {
        (self.result.take(), std::mem::take(&mut self.chain), std::mem::take(&mut self.errors))
    }
}

fn never<R>(_: &R) -> bool {
    false
}
