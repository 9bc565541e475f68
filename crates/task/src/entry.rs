//! One async cleanup: a closure until its turn comes, then the future it made, in one allocation.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use epilogue_scope::record::Registration;
use epilogue_scope::{BoxError, CleanupResult, How};
use pin_project_lite::pin_project;

/// Which endings a cleanup is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    Failure,
    Success,
}

impl When {
    pub(crate) fn includes(self, how: How) -> bool {
        match self {
            When::Always => true,
            When::Failure => how.is_failure(),
            When::Success => how == How::Returned,
        }
    }
}

/// A cleanup on a stack.
pub(crate) struct Entry {
    pub(crate) cleanup: Pin<Box<dyn Cleanup>>,
    pub(crate) registration: Registration,
    pub(crate) place: &'static Location<'static>,
    pub(crate) when: When,
    pub(crate) limit: Option<Duration>,
    pub(crate) id: u32,
    /// Its future exists, and has been polled.
    pub(crate) begun: bool,
}

/// A closure that makes a future, or that future.
pub(crate) trait Cleanup: Send {
    /// Makes the future, the first time, and polls it.
    fn poll(self: Pin<&mut Self>, how: How, cx: &mut Context<'_>) -> Poll<Option<BoxError>>;
}

pin_project! {
    #[project = LazyProjection]
    enum Lazy<F, Fut> {
        Owed { make: Option<F> },
        Begun { #[pin] future: Fut },
    }
}

pub(crate) fn lazy<F, Fut>(make: F) -> Pin<Box<dyn Cleanup>>
where
    F: FnOnce(How) -> Fut + Send + 'static,
    Fut: Future<Output: CleanupResult> + Send + 'static,
{
    Box::pin(Lazy::Owed { make: Some(make) })
}

impl<F, Fut> Cleanup for Lazy<F, Fut>
where
    F: FnOnce(How) -> Fut + Send,
    Fut: Future<Output: CleanupResult> + Send,
{
    fn poll(mut self: Pin<&mut Self>, how: How, cx: &mut Context<'_>) -> Poll<Option<BoxError>> {
        loop {
            match self.as_mut().project() {
                LazyProjection::Begun { future } => return future.poll(cx).map(CleanupResult::into_error),
                LazyProjection::Owed { make } => match make.take() {
                    Some(make) => {
                        let future = make(how);
                        self.set(Lazy::Begun { future });
                    }
                    // It panicked while it made its future: there is nothing more to run.
                    None => return Poll::Ready(None),
                },
            }
        }
    }
}
