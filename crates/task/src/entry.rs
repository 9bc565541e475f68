//! One async cleanup: a closure until its turn comes, then the future it made. With all that is known
//! of it in one allocation, so that moving it about moves a pointer.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use epilogue_scope::record::Registration;
use epilogue_scope::{BoxError, CleanupResult, How};
use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::task::AbortHandle;

/// Which endings a cleanup is for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum When {
    #[default]
    Always,
    Failure,
    Success,
}

impl When {
    #[inline]
    pub(crate) fn includes(self, how: How) -> bool {
        match self {
            When::Always => true,
            When::Failure => how.is_failure(),
            When::Success => how == How::Returned,
        }
    }
}

/// A cleanup on a stack.
pub(crate) type Entry = Pin<Box<dyn Owed>>;

/// Cleanups, the newest last; the first four need no allocation of their own.
pub(crate) type Entries = SmallVec<[Entry; 4]>;

/// What sort of cleanup it is.
#[derive(Default)]
pub(crate) struct Kind {
    pub(crate) when: When,
    pub(crate) limit: Option<Duration>,
    /// The cleanup sees this task ended.
    pub(crate) abort: Option<AbortHandle>,
}

/// What is known of a cleanup.
pub(crate) struct About {
    pub(crate) registration: Registration,
    pub(crate) place: &'static Location<'static>,
    pub(crate) kind: Kind,
    pub(crate) id: u64,
}

/// A closure that makes a future, or that future, or neither any more.
pub(crate) trait Owed: Send {
    fn about(self: Pin<&mut Self>) -> &mut About;

    /// Makes the future, the first time, and polls it. Once it is ready, nothing is left to drop but
    /// the allocation.
    fn poll(self: Pin<&mut Self>, how: How, cx: &mut Context<'_>) -> Poll<Option<BoxError>>;

    /// Drops the closure or the future.
    fn clear(self: Pin<&mut Self>);
}

pin_project! {
    struct Lazy<F, Fut> {
        about: About,
        #[pin]
        state: State<F, Fut>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, Fut> {
        Owed { make: Option<F> },
        Begun { #[pin] future: Fut },
        Done,
    }
}

#[inline]
pub(crate) fn lazy<F, Fut>(about: About, make: F) -> Entry
where
    F: FnOnce(How) -> Fut + Send + 'static,
    Fut: Future<Output: CleanupResult> + Send + 'static,
{
    Box::pin(Lazy { about, state: State::Owed { make: Some(make) } })
}

impl<F, Fut> Owed for Lazy<F, Fut>
where
    F: FnOnce(How) -> Fut + Send,
    Fut: Future<Output: CleanupResult> + Send,
{
    fn about(self: Pin<&mut Self>) -> &mut About {
        self.project().about
    }

    fn poll(self: Pin<&mut Self>, how: How, cx: &mut Context<'_>) -> Poll<Option<BoxError>> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Begun { future } => {
                    let Poll::Ready(result) = future.poll(cx) else { return Poll::Pending };
                    state.set(State::Done);
                    return Poll::Ready(result.into_error());
                }
                StateProjection::Owed { make } => match make.take() {
                    Some(make) => {
                        let future = make(how);
                        state.set(State::Begun { future });
                    }
                    // It panicked while it made its future: there is nothing more to run.
                    None => return Poll::Ready(None),
                },
                StateProjection::Done => return Poll::Ready(None),
            }
        }
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().state.set(State::Done);
    }
}
