//! A task's future where whoever stops the task can reach it: dropped on the spot, where the runtime would have to
//! be asked, and waited for, on another thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll};

use epilogue_scope::{Caught, catch};
use tokio::runtime::Handle;

type Slot<T> = Mutex<Option<Pin<Box<dyn Future<Output = T> + Send>>>>;

/// What the runtime polls. Its output is `None` where the future was [dropped](Reach::drop_now) before it ended.
///
/// Dropped itself, it drops the future, unless that has been done.
pub struct Shell<T>(Arc<Slot<T>>);

/// Drops the future of a task from outside of it.
pub struct Reach<T> {
    slot: Arc<Slot<T>>,
    /// Set when a drop from outside is over.
    dropped: Arc<AtomicBool>,
    /// Whose future it is: what is dropped may spawn.
    runtime: Handle,
}

/// Takes a future apart into what is to be spawned, and what reaches it there.
///
/// # Panics
///
/// Outside a tokio runtime.
///
/// # Examples
///
/// ```
/// # #[tokio::main]
/// # async fn main() {
/// let (shell, reach) = epilogue_task::within_reach(std::future::pending::<u32>());
/// assert!(matches!(reach.drop_now(), Some(Ok(()))));
/// assert_eq!(tokio::spawn(shell).await.unwrap(), None);
/// # }
/// ```
#[track_caller]
pub fn within_reach<T>(future: impl Future<Output = T> + Send + 'static) -> (Shell<T>, Reach<T>) {
    let slot: Arc<Slot<T>> = Arc::new(Mutex::new(Some(Box::pin(future))));
    (Shell(Arc::clone(&slot)), Reach { slot, dropped: Arc::default(), runtime: Handle::current() })
}

impl<T> Future for Shell<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = lock(&self.0);
        let Some(running) = slot.as_mut() else { return Poll::Ready(None) };
        let polled = running.as_mut().poll(cx);
        if polled.is_ready() {
            *slot = None;
        }
        polled.map(Some)
    }
}

impl<T> Drop for Shell<T> {
    fn drop(&mut self) {
        let running = lock(&self.0).take();
        drop(running);
    }
}

impl<T> Reach<T> {
    /// Drops the future on this thread, and tells how that went; `None` where it is gone already, or being polled at
    /// this moment. Outside of every runtime it is dropped within its own: what is dropped may spawn.
    ///
    /// The task stays with the runtime, empty, until it is polled or aborted.
    pub fn drop_now(&self) -> Option<Result<(), Caught>> {
        let mut slot = match self.slot.try_lock() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let running = slot.take()?;
        drop(slot);
        let _entered = Handle::try_current().is_err().then(|| self.runtime.enter());
        let how = catch(|| drop(running));
        self.dropped.store(true, Ordering::Release);
        Some(how)
    }

    /// Whether the future was dropped from outside, and that is over.
    pub fn was_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }
}

impl<T> Clone for Reach<T> {
    fn clone(&self) -> Self {
        let (slot, dropped) = (Arc::clone(&self.slot), Arc::clone(&self.dropped));
        Reach { slot, dropped, runtime: self.runtime.clone() }
    }
}

fn lock<T>(slot: &Slot<T>) -> MutexGuard<'_, Option<Pin<Box<dyn Future<Output = T> + Send>>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
