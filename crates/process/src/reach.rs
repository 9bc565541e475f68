//! A task's future where whoever stops the task can reach it: dropped on the spot, where the runtime would have to
//! be asked, and waited for, on another thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll};

use epilogue_scope::{Caught, catch};

type Running = Pin<Box<dyn Future<Output = Result<(), Caught>> + Send>>;
type Slot = Mutex<Option<Running>>;

/// What the runtime polls. Dropped, it drops the future, unless that has been done.
pub(crate) struct Shell(Arc<Slot>);

/// What drops it.
pub(crate) struct Reach(Arc<Slot>);

pub(crate) fn within_reach(
    future: impl Future<Output = Result<(), Caught>> + Send + 'static,
) -> (Shell, Reach) {
    let slot = Arc::new(Mutex::new(Some(Box::pin(future) as Running)));
    (Shell(Arc::clone(&slot)), Reach(slot))
}

impl Future for Shell {
    type Output = Result<(), Caught>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Caught>> {
        let mut slot = lock(&self.0);
        // Whoever has dropped it knows how that ended.
        let Some(running) = slot.as_mut() else { return Poll::Ready(Ok(())) };
        let polled = running.as_mut().poll(cx);
        if polled.is_ready() {
            *slot = None;
        }
        polled
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let running = lock(&self.0).take();
        drop(running);
    }
}

impl Reach {
    /// Drops the future, and tells how that went; `None` where it is gone already, or being polled at this moment.
    pub(crate) fn drop_now(&self) -> Option<Result<(), Caught>> {
        let mut slot = match self.0.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let running = slot.take()?;
        drop(slot);
        Some(catch(|| drop(running)))
    }
}

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Running>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
