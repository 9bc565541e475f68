//! Paying an async stack: strictly one after the other, newest first, each isolated.

use std::future::Future;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use epilogue_scope::__private::AsyncAttempt;
use epilogue_scope::record::Finished;
use epilogue_scope::{BoxError, Caught, CleanupError, How, catch, report};

use crate::begun::Begun;
use crate::entry::Entry;
use crate::stack::Shared;

/// Where the outcome of a cleanup goes.
pub(crate) trait Outcomes {
    fn how(&self) -> How;
    fn failed(&mut self, error: CleanupError);
    fn raised(&mut self, caught: Caught, place: &'static Location<'static>);
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

    fn raised(&mut self, caught: Caught, _: &'static Location<'static>) {
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

    fn raised(&mut self, caught: Caught, place: &'static Location<'static>) {
        for link in caught.chain().links().iter().filter(|link| !link.exits_task()) {
            report::panicked(&place.to_string(), &**link);
        }
    }
}

/// Pays everything above `depth`.
pub(crate) async fn down(shared: &Shared, depth: usize, outcomes: &mut (impl Outcomes + ?Sized)) {
    while let Some(entry) = shared.pop(depth) {
        let how = outcomes.how();
        if entry.when.includes(how) {
            one(shared, entry, how, outcomes).await;
            if outcomes.how() != how {
                // For the rest of them, also if it is the lane that runs them.
                shared.end(outcomes.how());
            }
        } else {
            drop_caught(entry, Finished::Disarmed, outcomes);
        }
    }
}

/// Pays one cleanup. Dropped in the middle, the cleanup goes back on its stack, begun as it is.
pub(crate) async fn one(shared: &Shared, entry: Entry, how: How, outcomes: &mut (impl Outcomes + ?Sized)) {
    let (place, limit) = (entry.place, entry.limit);
    let mut begun = Begun::new(shared, entry);
    let ended = match limit {
        None => Some(PollCaught { begun: &mut begun, how }.await),
        Some(limit) => within(limit, PollCaught { begun: &mut begun, how }).await,
    };
    let finished = match ended {
        Some(Ok(None)) => Finished::Ran,
        Some(Ok(Some(error))) => {
            outcomes.failed(CleanupError::new(place, error));
            Finished::Failed
        }
        Some(Err(caught)) => {
            outcomes.raised(caught, place);
            Finished::Panicked
        }
        None => {
            outcomes.failed(CleanupError::new(place, Box::new(Overran { limit: limit.unwrap_or_default() })));
            Finished::Abandoned
        }
    };
    if let Some(entry) = begun.end() {
        drop_caught(entry, finished, outcomes);
    }
}

/// What a cleanup holds may panic when it is dropped.
pub(crate) fn drop_caught(mut entry: Entry, finished: Finished, outcomes: &mut (impl Outcomes + ?Sized)) {
    entry.registration.finish(finished);
    let place = entry.place;
    if let Err(caught) = catch(move || drop(entry)) {
        outcomes.raised(caught, place);
    }
}

/// A cleanup was cut at its own time limit.
#[derive(Debug, thiserror::Error)]
#[error("cut off: it took longer than its limit of {limit:?}")]
struct Overran {
    limit: Duration,
}

struct PollCaught<'a, 'b> {
    begun: &'a mut Begun<'b>,
    how: How,
}

impl Future for PollCaught<'_, '_> {
    type Output = Result<Option<BoxError>, Caught>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let how = self.how;
        let Some(cleanup) = self.begun.cleanup() else { return Poll::Ready(Ok(None)) };
        match catch(|| cleanup.poll(how, cx)) {
            Ok(poll) => poll.map(Ok),
            Err(caught) => Poll::Ready(Err(caught)),
        }
    }
}

/// `None` when time ran out.
async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    if tokio::runtime::Handle::try_current().is_err() {
        // No clock without a runtime. The lane has one, and runs what a dropped future owed; a
        // future that is polled by hand pays its cleanups without their limits.
        return Some(future.await);
    }
    tokio::time::timeout(limit, &mut future).await.ok()
}
