//! Which async scopes the running code is in.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;

thread_local!(static OPEN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) });

/// The [numbers](crate::AsyncScope::id) of the async scopes that the running code is in, the outermost
/// first: in their bodies, in their cleanups as they are left, in the tasks that they have spawned and that
/// cannot outlive them. Not in tasks of `tokio::spawn`, nor in what runs on the [lane](crate::lane).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use epilogue_task::{async_scope, enclosing_scopes};
///
/// async_scope(async |outer| {
///     async_scope(async |inner| {
///         tokio::task::yield_now().await;
///         assert_eq!(enclosing_scopes(), [outer.id(), inner.id()]);
///     })
///     .await;
///     assert_eq!(enclosing_scopes(), [outer.id()]);
/// })
/// .await;
/// assert!(enclosing_scopes().is_empty());
/// # }
/// ```
pub fn enclosing_scopes() -> Vec<u64> {
    // While a thread is torn down nothing is in a scope.
    OPEN.try_with(|open| open.borrow().clone()).unwrap_or_default()
}

/// Polls a future as a part of a scope.
pub(crate) async fn part_of<T>(scope: u64, part: impl Future<Output = T>) -> T {
    in_scopes([scope], part).await
}

/// Polls a future as a part of these.
pub(crate) async fn in_scopes<T>(scopes: impl AsRef<[u64]>, part: impl Future<Output = T>) -> T {
    let mut part = pin!(part);
    std::future::poll_fn(|cx| {
        let _in = enter(scopes.as_ref());
        part.as_mut().poll(cx)
    })
    .await
}

#[inline]
fn enter(scopes: &[u64]) -> Entered {
    let before = OPEN.try_with(|open| {
        let mut open = open.borrow_mut();
        let before = open.len();
        open.extend_from_slice(scopes);
        before
    });
    Entered(before.unwrap_or(0))
}

/// How many there were before.
struct Entered(usize);

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        let _ = OPEN.try_with(|open| open.borrow_mut().truncate(self.0));
    }
}
