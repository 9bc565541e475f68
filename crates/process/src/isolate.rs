//! Futures at a boundary: their panics are caught with the whole chain.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use epilogue_scope::{Caught, catch};

/// Polls a future with its panics caught, and those of its cleanups. The future is dropped inside
/// the boundary as well.
pub(crate) async fn isolated<T>(future: impl Future<Output = T>) -> Result<T, Caught> {
    let mut future = pin!(Some(future));
    let polled = std::future::poll_fn(|cx| {
        let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
        match catch(|| running.poll(cx)) {
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
