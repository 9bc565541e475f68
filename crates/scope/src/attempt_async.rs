//! The same for an `async fn`: what is built after the rest in a `fn` is built before it here,
//! because nothing placed after an `.await` runs when the future is dropped there.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use crate::attempt::Errors;
use crate::boundary::{Caught, attempt as caught, attempt_keeping};
use crate::chain::{Chain, Mark};
use crate::cleanup::{BoxError, CleanupError, CleanupResult};
use crate::ending::{Ending, How};
use crate::pay;
use crate::report;

/// The rest of an `async fn`, which has run. Unlike its counterpart it may be sent, if the result may:
/// async cleanups are awaited while it is held.
pub struct AsyncAttempt<R> {
    result: Option<R>,
    chain: Chain,
    errors: Vec<CleanupError>,
    failed: fn(&R) -> bool,
}

/// Runs the rest of an `async fn`.
pub async fn attempt_async<R>(rest: impl Future<Output = R>) -> AsyncAttempt<R> {
    let mut rest = pin!(rest);
    let (result, chain) = std::future::poll_fn(|cx| poll_caught(rest.as_mut(), cx)).await;
    AsyncAttempt { result, chain, errors: Vec::new(), failed: |_| false }
}

impl<R> AsyncAttempt<R> {
    /// Tells how to see that a result is a failure.
    pub fn set_failed(&mut self, failed: fn(&R) -> bool) {
        self.failed = failed;
    }

    /// How the rest ended.
    pub fn how(&self) -> How {
        How::of(&self.chain, self.result.as_ref(), self.failed, How::Cancelled)
    }

    /// Runs a cleanup that was built before the rest.
    pub fn pay_owed<F>(&mut self, mut owed: OnEnding<R, F>)
    where
        F: FnOnce(&mut Ending<'_, R>) -> Option<BoxError>,
    {
        let Some(cleanup) = owed.cleanup.take() else { return };
        let outcome = self.result.take();
        let mut ending = Ending::with(outcome, std::mem::take(&mut self.chain), self.failed);
        pay_with(owed.place, cleanup, &mut ending);
        let (result, chain, mut errors) = ending.take();
        (self.result, self.chain) = (result, chain);
        self.errors.append(&mut errors);
    }

    /// Keeps the error of a cleanup that was awaited.
    pub fn push_error(&mut self, error: CleanupError) {
        self.errors.push(error);
    }

    /// Puts what such a cleanup raised on top of what is in flight.
    pub fn push_caught(&mut self, caught: Caught) {
        self.chain.append(caught.into_chain());
    }

    /// What the function returns, and the errors of its cleanups; or the chain, raised.
    pub fn conclude(mut self) -> (R, Vec<CleanupError>) {
        let (chain, errors) = (std::mem::take(&mut self.chain), std::mem::take(&mut self.errors));
        pay::conclude_parts(Mark::here(), self.result.take(), chain, errors)
    }

    /// What the function returns, or the chain, raised. Errors of cleanups are reported.
    pub fn finish(self) -> R {
        let (result, errors) = self.conclude();
        errors.iter().for_each(CleanupError::report);
        result
    }

    /// The same; errors of cleanups are kept for the function's result.
    pub fn finish_into(self, all: &Errors) -> R {
        let (result, errors) = self.conclude();
        errors.into_iter().for_each(|error| all.push(error));
        result
    }
}

/// Cancelled while its cleanups are awaited: nobody returns what is in flight, so it is reported.
impl<R> Drop for AsyncAttempt<R> {
    fn drop(&mut self) {
        self.errors.iter().for_each(CleanupError::report);
        for link in self.chain.links().iter().filter(|link| !link.exits_task()) {
            report::panicked("an async scope that was cancelled while it was left", &**link);
        }
    }
}

/// The marks belong to the thread, and the next poll may be on another one: each poll has its own.
fn poll_caught<R>(rest: Pin<&mut impl Future<Output = R>>, cx: &mut Context<'_>) -> Poll<(Option<R>, Chain)> {
    match attempt_keeping(Mark::here(), || rest.poll(cx)) {
        (Some(Poll::Ready(result)), chain) => Poll::Ready((Some(result), chain)),
        (Some(Poll::Pending), chain) if chain.is_empty() => Poll::Pending,
        (_, chain) => Poll::Ready((None, chain)),
    }
}

/// A cleanup that waits for the ending of an `async fn`. Dropped before, it runs with
/// [`How::Cancelled`].
pub struct OnEnding<R, F: FnOnce(&mut Ending<'_, R>) -> Option<BoxError>> {
    cleanup: Option<F>,
    place: &'static str,
    _result: PhantomData<fn() -> R>,
}

impl<R, F: FnOnce(&mut Ending<'_, R>) -> Option<BoxError>> OnEnding<R, F> {
    /// Owes a cleanup that was made by one of the functions below.
    #[inline]
    pub fn new(place: &'static str, cleanup: F) -> Self {
        OnEnding { cleanup: Some(cleanup), place, _result: PhantomData }
    }
}

/// A cleanup for every ending.
pub fn on_any<R, C: CleanupResult>(
    cleanup: impl FnOnce(&mut Ending<'_, R>) -> C,
) -> impl FnOnce(&mut Ending<'_, R>) -> Option<BoxError> {
    move |end| cleanup(end).into_error()
}

/// A cleanup for anything but `Ok`.
pub fn on_err<R, C: CleanupResult>(
    cleanup: impl FnOnce() -> C,
) -> impl FnOnce(&mut Ending<'_, R>) -> Option<BoxError> {
    move |end| if end.how().is_failure() { cleanup().into_error() } else { None }
}

/// A cleanup for a return that is not `Err`.
pub fn on_ok<R, C: CleanupResult>(
    cleanup: impl FnOnce() -> C,
) -> impl FnOnce(&mut Ending<'_, R>) -> Option<BoxError> {
    move |end| if end.how() == How::Returned { cleanup().into_error() } else { None }
}

impl<R, F: FnOnce(&mut Ending<'_, R>) -> Option<BoxError>> Drop for OnEnding<R, F> {
    fn drop(&mut self) {
        if let Some(cleanup) = self.cleanup.take() {
            cancelled::<R>(self.place, cleanup);
        }
    }
}

fn cancelled<R>(place: &'static str, cleanup: impl FnOnce(&mut Ending<'_, R>) -> Option<BoxError>) {
    let mark = Mark::here();
    let mut ending = Ending::<R>::known_only(How::Cancelled);
    pay_with(place, cleanup, &mut ending);
    let (_, chain, errors) = ending.take();
    errors.iter().for_each(CleanupError::report);
    pay::Raised::new(chain, mark).raise_or_keep();
}

fn pay_with<'env, R>(
    place: &'static str,
    cleanup: impl FnOnce(&mut Ending<'env, R>) -> Option<BoxError>,
    ending: &mut Ending<'env, R>,
) {
    match caught(Mark::here(), || cleanup(ending)) {
        Ok(error) => {
            ending.chain.forget_recovered();
            ending.errors.extend(error.map(|error| CleanupError::new(place, error)));
        }
        Err(newer) => ending.chain.append(newer),
    }
    pay::rest(ending);
}
