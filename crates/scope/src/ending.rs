//! How a scope ended, as its cleanups see it.

use crate::chain::{Chain, Payload};

/// How a scope is being left at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum How {
    /// The body returned, with a result to look at.
    Returned,
    /// A panic is in flight.
    Panicked,
    /// The task is being exited.
    TaskExited,
}

/// The ending of a scope, given to each of its cleanups in turn: what the body returned, or which
/// panic is in flight. A cleanup may replace the result and may recover the panic; the cleanups
/// below it then see that.
pub struct Ending<R> {
    pub(crate) result: Option<R>,
    pub(crate) chain: Chain,
}

impl<R> Ending<R> {
    pub(crate) fn new(outcome: Result<R, Chain>) -> Ending<R> {
        match outcome {
            Ok(result) => Ending { result: Some(result), chain: Chain::default() },
            Err(chain) => Ending { result: None, chain },
        }
    }

    /// Which way the scope is being left.
    pub fn how(&self) -> How {
        if self.chain.exits_task() {
            How::TaskExited
        } else if self.chain.is_empty() {
            How::Returned
        } else {
            How::Panicked
        }
    }

    /// What the scope will return; `None` while a panic or a task exit is in flight.
    pub fn result(&self) -> Option<&R> {
        if self.chain.is_empty() { self.result.as_ref() } else { None }
    }

    /// Replaces what the scope will return. Without effect on a panic in flight: see
    /// [`recover_with`](Ending::recover_with).
    pub fn replace(&mut self, result: R) {
        self.result = Some(result);
    }

    /// The panic in flight, newest if there are several.
    pub fn panic(&self) -> Option<&Payload> {
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
}
