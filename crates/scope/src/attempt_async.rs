//! The same for an `async fn`: what is built after the rest in a `fn` is built before it here,
//! because nothing placed after an `.await` runs when the future is dropped there.

use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::attempt::{Errors, Kind, pay_inline};
use crate::boundary::{Caught, raised_by};
use crate::chain::{Chain, Mark};
use crate::cleanup::{BoxError, CleanupError, CleanupResult};
use crate::ending::{Ending, How, Wrong};
use crate::pay;
use crate::report;

/// The rest of an `async fn`, which has run. Unlike its counterpart it may be sent, if the result may:
/// async cleanups are awaited while it is held.
pub struct AsyncAttempt<R> {
    result: Option<R>,
    /// `None` where all is well.
    trouble: Option<Box<Trouble>>,
    failed: fn(&R) -> bool,
    /// As in an [`Ending`].
    holds: bool,
    holds_one: bool,
}

#[derive(Default)]
struct Trouble {
    chain: Chain,
    errors: Vec<CleanupError>,
}

/// Runs the rest of an `async fn`.
pub async fn attempt_async<R>(rest: impl Future<Output = R>) -> AsyncAttempt<R> {
    // Dropped before its end, guards inside have panics that wait for this boundary.
    let after = AfterRest(AtomicU64::new(0));
    let mut rest = pin!(rest);
    let _before = BeforeRest(&after);
    std::future::poll_fn(|cx| poll_caught(rest.as_mut(), cx)).await
}

/// Dropped right before the rest is: takes the mark, on the thread that drops.
struct BeforeRest<'a>(&'a AfterRest);

impl Drop for BeforeRest<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.0.store(Mark::here().to_bits(), Ordering::Relaxed);
    }
}

/// Dropped right after it: raises what has been kept since.
struct AfterRest(AtomicU64);

impl Drop for AfterRest {
    #[inline]
    fn drop(&mut self) {
        let mark = Mark::from_bits(*self.0.get_mut());
        if !mark.is_settled()
            && let Some(chain) = mark.settle()
        {
            pay::Raised::new(chain, mark).raise_or_keep();
        }
    }
}

impl<R> AsyncAttempt<R> {
    /// Tells how to see that a result is a failure.
    pub fn set_failed(&mut self, failed: fn(&R) -> bool) {
        self.failed = failed;
    }

    /// How the rest ended.
    pub fn how(&self) -> How {
        let how = match &self.trouble {
            Some(trouble) => How::of(&trouble.chain, self.result.as_ref(), self.failed, How::Cancelled),
            None => How::of_result(self.result.as_ref(), self.failed, How::Cancelled),
        };
        let an_error = || self.holds_one || self.trouble.as_ref().is_some_and(|one| !one.errors.is_empty());
        if how == How::Returned && self.holds && an_error() { How::Failed } else { how }
    }

    /// The type of what the function returns.
    pub fn kind(&self) -> Kind<R> {
        Kind::of_async_attempt(self)
    }

    /// Tells whether the result can hold the errors of cleanups, and which there are already.
    pub fn set_holds(&mut self, holds: bool, errors: &Errors) {
        if holds {
            (self.holds, self.holds_one) = (true, errors.any());
        }
    }

    /// The result will hold the errors of cleanups.
    pub fn will_hold(&mut self) {
        self.holds = true;
    }

    /// What the rest returned, if nothing is wrong: then there is nothing to report either.
    #[inline]
    pub fn into_good(mut self) -> Result<R, Self> {
        match self.result.take() {
            Some(result) if self.trouble.is_none() => Ok(result),
            result => {
                self.result = result;
                Err(self)
            }
        }
    }

    #[cold]
    fn trouble(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// Runs a cleanup that was built before the rest.
    pub fn pay_owed<F>(&mut self, mut owed: OnEnding<R, F>)
    where
        F: FnOnce(&mut Ending<'_, R>) -> Option<BoxError>,
    {
        let Some(cleanup) = owed.cleanup.take() else { return };
        let Trouble { chain, errors } = self.trouble.take().map(|trouble| *trouble).unwrap_or_default();
        let mut ending = Ending::with(self.result.take(), chain, self.failed);
        if self.holds {
            ending.set_holds(self.holds_one || !errors.is_empty());
        }
        pay_inline(owed.place, |end| cleanup(end).map_or(Ok(()), Err), &mut ending);
        match ending.conclude() {
            Ok(result) => self.result = Some(result),
            Err(wrong) => {
                self.result = wrong.result;
                *self.trouble() = Trouble { chain: wrong.chain, errors: wrong.errors };
            }
        }
        if !errors.is_empty() {
            let all = &mut self.trouble().errors;
            let newer = std::mem::replace(all, errors);
            all.extend(newer);
        }
    }

    /// Keeps the error of a cleanup that was awaited.
    pub fn push_error(&mut self, error: CleanupError) {
        self.trouble().errors.push(error);
    }

    /// Puts what such a cleanup raised on top of what is in flight.
    pub fn push_caught(&mut self, caught: Caught) {
        self.trouble().chain.append(caught.into_chain());
    }

    /// What the function returns, and the errors of its cleanups; or the chain, raised.
    pub fn conclude(mut self) -> (R, Vec<CleanupError>) {
        let result = self.result.take();
        match (result, self.trouble.take()) {
            (Some(result), None) => (result, Vec::new()),
            (result, trouble) => {
                let Trouble { chain, errors } = trouble.map(|trouble| *trouble).unwrap_or_default();
                pay::conclude_wrong(Mark::here(), Wrong { result, chain, errors })
            }
        }
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
    #[inline]
    fn drop(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            report_trouble(&trouble);
        }
    }
}

#[cold]
fn report_trouble(trouble: &Trouble) {
    trouble.errors.iter().for_each(CleanupError::report);
    for link in trouble.chain.links().iter().filter(|link| !link.exits_task()) {
        report::panicked("an async scope that was cancelled while it was left", &**link);
    }
}

/// The marks belong to the thread, and the next poll may be on another one: each poll has its own.
#[inline]
fn poll_caught<R>(rest: Pin<&mut impl Future<Output = R>>, cx: &mut Context<'_>) -> Poll<AsyncAttempt<R>> {
    let mark = Mark::here();
    let (result, chain) = match catch_unwind(AssertUnwindSafe(|| rest.poll(cx))) {
        Ok(Poll::Pending) if mark.is_settled() => return Poll::Pending,
        Ok(Poll::Ready(result)) if mark.is_settled() => (Some(result), None),
        Ok(Poll::Ready(result)) => (Some(result), mark.settle()),
        Ok(Poll::Pending) => match mark.settle() {
            None => return Poll::Pending,
            left => (None, left),
        },
        Err(payload) => (None, Some(mark.chain_of(payload))),
    };
    let trouble = chain.map(|chain| Box::new(Trouble { chain, errors: Vec::new() }));
    Poll::Ready(AsyncAttempt { result, trouble, failed: |_| false, holds: false, holds_one: false })
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
    pay_inline(place, |end| cleanup(end).map_or(Ok(()), Err), &mut ending);
    let Err(Wrong { result, mut chain, errors }) = ending.conclude() else { return };
    errors.iter().for_each(CleanupError::report);
    // A cleanup may have put a result there. Not while unwinding: its destructor may panic.
    if let Some(newer) = raised_by(|| drop(result)) {
        chain.append(newer);
    }
    pay::Raised::new(chain, mark).raise_or_keep();
}
