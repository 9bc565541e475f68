//! Futures at a boundary: their panics are caught with the whole chain.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{self, Poll};

use epilogue_scope::record::{Context, in_context};
use epilogue_scope::{Caught, catch};
use pin_project_lite::pin_project;

use crate::debts::Debts;

/// Polls a future in another context: what it enters is listed under that task and trace.
///
/// # Cancel safety
///
/// As the future's own.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use epilogue_scope::record::{Context, current};
/// use epilogue_task::with_context;
///
/// let seen = with_context(Context::of_trace(0xfeed), async { current().trace }).await;
/// assert_eq!(seen, Some(0xfeed));
/// # }
/// ```
pub async fn with_context<T>(context: Context, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| in_context(&context, || future.as_mut().poll(cx))).await
}

/// Polls a future with its panics caught, and those of its cleanups, in this context. The future is
/// dropped inside the boundary as well.
///
/// # Errors
///
/// [`Caught`] when the future panicked or exited its task.
///
/// # Cancel safety
///
/// Dropping it drops the future, outside of the boundary.
pub fn isolated<T>(
    context: Context,
    future: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Caught>> {
    isolated_with(context, Debts::new(), future)
}

/// [`isolated`], and what the future owes on the [`lane`](crate::lane) when it is dropped counts as these
/// debts, to be awaited.
pub fn isolated_with<T>(
    context: Context,
    debts: Debts,
    future: impl Future<Output = T>,
) -> impl Future<Output = Result<T, Caught>> {
    Isolated { context, debts, future: Some(future) }
}

pin_project! {
    struct Isolated<F> {
        context: Context,
        debts: Debts,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Isolated<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.debts.while_of(|| this.future.set(None));
        }
    }
}

impl<F: Future> Future for Isolated<F> {
    type Output = Result<F::Output, Caught>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(running) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let (context, debts) = (&*this.context, &*this.debts);
        let within = |body: &mut dyn FnMut()| debts.while_of(|| in_context(context, body));
        let mut polled = None;
        let mut poll = Some(|| catch(|| running.poll(cx)));
        within(&mut || polled = poll.take().map(|poll| poll()));
        let ended = match polled {
            None | Some(Ok(Poll::Pending)) => return Poll::Pending,
            Some(Ok(Poll::Ready(result))) => Ok(result),
            Some(Err(caught)) => Err(caught),
        };
        let mut dropped = Ok(());
        within(&mut || dropped = catch(|| this.future.set(None)));
        Poll::Ready(match dropped {
            Ok(()) => ended,
            Err(caught) => ended.and(Err(caught)),
        })
    }
}
