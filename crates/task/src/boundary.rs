//! Futures at a boundary: their panics are caught with the whole chain.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use epilogue_scope::record::{Context, in_context};
use epilogue_scope::{Caught, catch};

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
pub async fn isolated<T>(context: Context, future: impl Future<Output = T>) -> Result<T, Caught> {
    let mut future = pin!(Some(future));
    let polled = std::future::poll_fn(|cx| {
        let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        match in_context(&context, || catch(|| running.poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(caught) => Poll::Ready(Err(caught)),
        }
    })
    .await;
    match catch(|| future.set(None)) {
        Ok(()) => polled,
        Err(caught) => polled.and(Err(caught)),
    }
}
