//! Paying an async stack: strictly one after the other, newest first, each isolated.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use epilogue_scope::__private::{AsyncAttempt, Place, catch_boxed};
use epilogue_scope::record::Finished;
use epilogue_scope::{BoxError, Caught, CleanupError, How, catch, report};
use tokio::time::Sleep;

use crate::entry::{Entries, Entry};
use crate::shared::Shared;

/// Where the outcome of a cleanup goes.
pub(crate) trait Outcomes {
    fn how(&self) -> How;
    fn failed(&mut self, error: CleanupError);
    fn raised(&mut self, caught: Caught, place: &'static std::panic::Location<'static>);
}

/// To the function that awaits its scope.
pub(crate) struct IntoAttempt<'a, R>(pub(crate) &'a mut AsyncAttempt<R>);

impl<R> Outcomes for IntoAttempt<'_, R> {
    fn how(&self) -> How {
        self.0.how()
    }

    fn failed(&mut self, error: CleanupError) {
        self.0.push_error(error);
    }

    fn raised(&mut self, caught: Caught, _: &'static std::panic::Location<'static>) {
        self.0.push_caught(caught);
    }
}

/// To the report sink: nobody waits for it.
pub(crate) struct IntoReport(pub(crate) How);

impl Outcomes for IntoReport {
    fn how(&self) -> How {
        self.0
    }

    fn failed(&mut self, error: CleanupError) {
        error.report();
    }

    fn raised(&mut self, caught: Caught, place: &'static std::panic::Location<'static>) {
        for link in caught.chain().links().iter().filter(|link| !link.exits_task()) {
            report::panicked(&format!("cleanup at {}", Place(place)), &**link);
        }
    }
}

/// Pays everything above a depth. Dropped in the middle, it puts back what it has not paid, the
/// cleanup that was running, begun as it is, on top.
pub(crate) struct Pay<'a, O: Outcomes> {
    shared: &'a Shared,
    depth: usize,
    payer: u64,
    outcomes: O,
    how: How,
    running: Option<Entry>,
    /// Taken off the stack at once, where nobody else can reach it; the newest is last.
    batch: Entries,
    /// Of which was the cleanup that is running.
    batched: bool,
    /// Of the cleanup that is running, if it has a limit.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<'a, O: Outcomes> Pay<'a, O> {
    #[inline]
    pub(crate) fn down(shared: &'a Shared, depth: usize, payer: u64, outcomes: O) -> Pay<'a, O> {
        let how = outcomes.how();
        Pay {
            shared,
            depth,
            payer,
            outcomes,
            how,
            running: None,
            batch: Entries::new(),
            batched: false,
            sleep: None,
        }
    }

    /// Pays everything; closes the stack.
    #[inline]
    pub(crate) fn all(shared: &'a Shared, outcomes: O) -> Pay<'a, O> {
        let batch = shared.take_all_unless_shared();
        let how = outcomes.how();
        Pay { shared, depth: 0, payer: 0, outcomes, how, running: None, batch, batched: false, sleep: None }
    }

    fn next(&mut self) -> Option<Entry> {
        self.batched = !self.batch.is_empty();
        if let Some(mut entry) = self.batch.pop() {
            self.shared.paid(entry.as_mut().about().id);
            return Some(entry);
        }
        self.shared.pop(self.depth, self.payer)
    }

    /// Pays this one cleanup, which was taken off the stack, and no other.
    pub(crate) fn one(shared: &'a Shared, entry: Entry, outcomes: O) -> Pay<'a, O> {
        let how = outcomes.how();
        Pay {
            shared,
            depth: usize::MAX,
            payer: 0,
            outcomes,
            how,
            running: Some(entry),
            batch: Entries::new(),
            batched: false,
            sleep: None,
        }
    }

    fn poll_running(&mut self, entry: &mut Entry, cx: &mut Context<'_>) -> Poll<()> {
        let how = self.how;
        match catch_boxed(|| entry.as_mut().poll(how, cx)) {
            Ok(Poll::Ready(None)) => entry.as_mut().about().registration.finish(Finished::Ran),
            Ok(Poll::Ready(Some(error))) => self.failed(entry, error, Finished::Failed),
            Ok(Poll::Pending) => return self.poll_limit(entry, cx),
            Err(caught) => self.raised(entry, *caught),
        }
        Poll::Ready(())
    }

    fn poll_limit(&mut self, entry: &mut Entry, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = entry.as_mut().about().kind.limit else { return Poll::Pending };
        if self.sleep.is_none() && tokio::runtime::Handle::try_current().is_err() {
            // No clock without a runtime. The lane has one, and runs what a dropped future owed; a
            // future that is polled by hand pays its cleanups without their limits.
            return Poll::Pending;
        }
        let sleep = &mut self.sleep;
        let over =
            catch(|| sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(cx));
        match over {
            Ok(over) => ready!(over),
            Err(_) => {
                // A runtime without time, or one that is gone: the cleanup goes on without its limit.
                entry.as_mut().about().kind.limit = None;
                return Poll::Pending;
            }
        }
        self.failed(entry, Box::new(Overran { limit }), Finished::Abandoned);
        self.clear(entry);
        Poll::Ready(())
    }

    #[cold]
    fn failed(&mut self, entry: &mut Entry, error: BoxError, finished: Finished) {
        let about = entry.as_mut().about();
        about.registration.finish(finished);
        self.outcomes.failed(CleanupError::new(Place(about.place), error));
        self.see_how();
    }

    /// What a cleanup has done to the ending is for the rest of them to see, also if it is the lane that
    /// runs them.
    fn see_how(&mut self) {
        if self.depth != usize::MAX {
            self.how = self.outcomes.how();
        }
    }

    #[cold]
    fn raised(&mut self, entry: &mut Entry, caught: Caught) {
        let about = entry.as_mut().about();
        about.registration.finish(Finished::Panicked);
        self.outcomes.raised(caught, about.place);
        self.see_how();
        self.clear(entry);
    }

    /// What a cleanup holds may panic when it is dropped.
    fn clear(&mut self, entry: &mut Entry) {
        if let Err(caught) = catch(|| entry.as_mut().clear()) {
            let place = entry.as_mut().about().place;
            self.outcomes.raised(caught, place);
        }
    }

    /// What came from the batch was popped by nobody.
    fn paid_one(&self) {
        if !self.batched {
            self.shared.paid_one();
        }
    }

    #[cold]
    fn skip(&mut self, mut entry: Entry) {
        entry.as_mut().about().registration.finish(Finished::Disarmed);
        self.clear(&mut entry);
        self.paid_one();
    }
}

impl<O: Outcomes + Unpin> Future for Pay<'_, O> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            if this.running.is_none() {
                let Some(mut entry) = this.next() else { return Poll::Ready(()) };
                if !entry.as_mut().about().kind.when.includes(this.how) {
                    this.skip(entry);
                    continue;
                }
                this.running = Some(entry);
            }
            let Some(mut entry) = this.running.take() else { continue };
            if this.poll_running(&mut entry, cx).is_pending() {
                this.running = Some(entry);
                return Poll::Pending;
            }
            this.sleep = None;
            this.paid_one();
            if this.depth == usize::MAX {
                return Poll::Ready(());
            }
        }
    }
}

impl<O: Outcomes> Drop for Pay<'_, O> {
    #[inline]
    fn drop(&mut self) {
        if self.running.is_some() || !self.batch.is_empty() {
            self.put_back();
        }
        self.shared.abort_what_is_left();
    }
}

impl<O: Outcomes> Pay<'_, O> {
    #[cold]
    fn put_back(&mut self) {
        if self.depth != usize::MAX {
            self.shared.end(self.how);
        }
        let batch = std::mem::take(&mut self.batch);
        batch.into_iter().chain(self.running.take()).for_each(|entry| self.shared.put_back(entry));
    }
}

/// A cleanup was cut at its own time limit.
#[derive(Debug, thiserror::Error)]
#[error("cut off: it took longer than its limit of {limit:?}")]
struct Overran {
    limit: Duration,
}
