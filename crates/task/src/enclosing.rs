//! Which async scopes the running code is in.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;

thread_local!(static OPEN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) });

/// The [numbers](crate::AsyncScope::id) of the async scopes that the running code is in the body of, the
/// outermost first. Those of a task that has spawned this one are not among them.
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

/// Polls a future as the body of a scope.
pub(crate) async fn body_of<T>(scope: u64, body: impl Future<Output = T>) -> T {
    let mut body = pin!(body);
    std::future::poll_fn(|cx| {
        let _in = enter(scope);
        body.as_mut().poll(cx)
    })
    .await
}

#[inline]
fn enter(scope: u64) -> Entered {
    let _ = OPEN.try_with(|open| open.borrow_mut().push(scope));
    Entered
}

struct Entered;

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        let _ = OPEN.try_with(|open| open.borrow_mut().pop());
    }
}
