//! The async scope.

use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::time::Duration;

use epilogue_scope::__private::{AsyncAttempt, attempt_async};
use epilogue_scope::record::Live;
use epilogue_scope::{CleanupErrors, CleanupResult, How};

use crate::enclosing::{in_scopes, part_of};
use crate::entry::Kind;
use crate::pay::{IntoReport, Pay};
use crate::policy::TaskPanic;
use crate::shared::Shared;
use crate::stack::{AsyncDeferred, AsyncStack, ScopeClosed};
use crate::task::{self, Task};

/// Runs `body`, then what it registered on the scope, newest first, and returns what the body
/// returned, or raises what is in flight.
///
/// The body may borrow; the cleanups may not, because they may outlive it. An error that a cleanup
/// returns goes to the [report sink](epilogue_scope::report); [`try_async_scope`] puts it into the
/// result instead. Cleanups see [`How::Returned`] also when the body returned an `Err`, which only
/// `try_async_scope` can tell.
///
/// # Panics
///
/// Raises the newest panic in flight.
///
/// # Cancel safety
///
/// Dropped in the middle of the body, it runs every cleanup on the [`lane`](crate::lane) with
/// [`How::Cancelled`]; dropped while it runs the cleanups, it runs the rest there, the one that was
/// cut included, which goes on where it was.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use epilogue_task::async_scope;
///
/// let total = async_scope(async |s| {
///     s.defer(async |how| println!("the connection is closed; the body {how:?}"));
///     1 + 2
/// })
/// .await;
/// assert_eq!(total, 3);
/// # }
/// ```
#[track_caller]
pub fn async_scope<F, T>(body: F) -> impl Future<Output = T>
where
    F: AsyncFnOnce(&AsyncScope) -> T,
{
    let place = Location::caller();
    async move { run(body, |_| false, false, place).await.into_good().unwrap_or_else(AsyncAttempt::finish) }
}

/// [`async_scope`] for a fallible body: an error of a cleanup is not lost in the sink, and cleanups
/// can tell [failure](How::Failed) from success.
///
/// # Errors
///
/// The body's own error stays as it is, and the cleanups' errors go to the report sink. Where the
/// body returned `Ok`, the cleanups' errors become the result, by `E: From<CleanupErrors>`.
///
/// # Panics
///
/// As [`async_scope`].
///
/// # Cancel safety
///
/// As [`async_scope`]. The errors of what runs on the lane are reported: nobody waits for a result.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use epilogue_scope::CleanupErrors;
/// use epilogue_task::try_async_scope;
///
/// let saved: Result<u32, CleanupErrors> = try_async_scope(async |s| {
///     s.defer(async |_| Err::<(), _>("the pool is stuck"));
///     Ok(7)
/// })
/// .await;
/// assert!(saved.unwrap_err().to_string().ends_with("failed: the pool is stuck"));
/// # }
/// ```
#[track_caller]
pub fn try_async_scope<F, T, E>(body: F) -> impl Future<Output = Result<T, E>>
where
    F: AsyncFnOnce(&AsyncScope) -> Result<T, E>,
    E: From<CleanupErrors>,
{
    let place = Location::caller();
    async move {
        run(body, Result::is_err, true, place).await.into_good().unwrap_or_else(|attempt| {
            let (result, errors) = attempt.conclude();
            match CleanupErrors::new(errors) {
                Some(errors) => errors.join(result),
                None => result,
            }
        })
    }
}

async fn run<F, R>(
    body: F,
    failed: fn(&R) -> bool,
    holds: bool,
    place: &'static Location<'static>,
) -> AsyncAttempt<R>
where
    F: AsyncFnOnce(&AsyncScope) -> R,
{
    let live = Live::enter(std::any::type_name::<F>(), place);
    let scope = AsyncScope { stack: AsyncStack::listed(live) };
    // What the body does before it makes its future is part of it.
    part_of(scope.stack.0.id(), async {
        let mut attempt = attempt_async(async { body(&scope).await }).await;
        attempt.set_failed(failed);
        if holds {
            attempt.will_hold();
        }
        scope.stack.pay_all(&mut attempt).await;
        attempt
    })
    .await
}

/// What an [`async_scope`] owes.
pub struct AsyncScope {
    stack: AsyncStack,
}

impl AsyncScope {
    /// Registers a cleanup: the closure is called, and its future run, when the scope is left by any
    /// door. It is told how.
    #[track_caller]
    pub fn defer<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.stack.defer(cleanup)
    }

    /// Registers a cleanup for an error, where the scope is a [`try_async_scope`]; a panic; a
    /// cancellation; a task exit. Zig's `errdefer`.
    #[doc(alias = "errdefer")]
    #[track_caller]
    pub fn defer_err<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.stack.defer_err(cleanup)
    }

    /// Registers a cleanup for a return; where the scope is a [`try_async_scope`], of `Ok`.
    #[track_caller]
    pub fn defer_ok<F, Fut>(&self, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.stack.defer_ok(cleanup)
    }

    /// Registers a cleanup that is cut when it has run for `limit`: its future is dropped, that is
    /// an error of the scope's, and the next cleanup runs.
    ///
    /// Needs a runtime with time wherever the cleanup runs; the lane has one. A future that is
    /// polled without any runtime runs it without its limit.
    #[track_caller]
    pub fn defer_within<F, Fut>(&self, limit: Duration, cleanup: F) -> AsyncDeferred
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.stack.push(cleanup, Kind { limit: Some(limit), ..Kind::default() })
    }

    /// Spawns a task that cannot outlive the scope: at its place among the cleanups it is awaited,
    /// if the scope's body returned, and otherwise cancelled and awaited.
    ///
    /// A panic in it is isolated: whoever awaits the [`Task`] is told, else it is reported.
    ///
    /// A task that is cancelled is dropped, unless it runs at that moment, on the thread that leaves the scope: a `Drop`
    /// of what it holds that blocks, or waits for what the scope's own task does, holds the scope.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use epilogue_task::async_scope;
    ///
    /// let sum = async_scope(async |s| {
    ///     let left = s.spawn("left", async { 1 });
    ///     let right = s.spawn("right", async { 2 });
    ///     left.await.unwrap() + right.await.unwrap()
    /// })
    /// .await;
    /// assert_eq!(sum, 3);
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        self.spawn_with(name, TaskPanic::Isolate, task)
    }

    /// [`spawn`](AsyncScope::spawn) with a policy for its panic.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn spawn_with<T: Send + 'static>(
        &self,
        name: &str,
        policy: TaskPanic,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        self.stack.0.make_reachable();
        match spawn_into(&self.stack.0, name, policy, task, Location::caller()) {
            Ok(task) => task,
            Err(_) => unreachable!("a scope is closed by its owner, which still lends it"),
        }
    }

    /// Makes sure that a cleanup will not run. Returns whether it was pending.
    pub fn disarm(&self, deferred: AsyncDeferred) -> bool {
        self.stack.0.disarm(deferred)
    }

    /// Runs a cleanup now, not at the end. Returns whether it was pending. It sees [`How::Open`];
    /// what goes wrong in it is reported.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, the cleanup is pending again, begun as it is, as the newest.
    pub async fn run_now(&self, deferred: AsyncDeferred) -> bool {
        let Some(entry) = self.stack.0.take(deferred) else { return false };
        Pay::one(&self.stack.0, entry, IntoReport(How::Open)).await;
        true
    }

    /// Moves everything that is pending to another scope, tasks included, in its order, on top of
    /// what is pending there.
    ///
    /// # Errors
    ///
    /// [`ScopeClosed`]: everything is still pending here.
    pub fn hand_over(&self, to: &ScopeHandle) -> Result<(), ScopeClosed> {
        self.stack.0.move_to(&to.0)
    }

    /// How many cleanups are pending.
    pub fn pending(&self) -> usize {
        self.stack.pending()
    }

    /// A number that no other scope of this process has, for what is kept beside the scope.
    pub fn id(&self) -> u64 {
        self.stack.0.known_by()
    }

    /// A handle for somebody who only disarms what was registered here. It keeps nothing of the scope.
    pub fn weak_handle(&self) -> WeakScopeHandle {
        WeakScopeHandle(Arc::downgrade(&self.stack.0))
    }

    /// A handle that may go where the scope may not: into a cleanup, which can then register a
    /// further one on the scope that is being left; into a task; to another scope.
    pub fn handle(&self) -> ScopeHandle {
        self.stack.0.make_reachable();
        ScopeHandle(Arc::clone(&self.stack.0))
    }
}

/// Registers on an async scope from elsewhere.
#[derive(Clone)]
pub struct ScopeHandle(pub(crate) Arc<Shared>);

impl ScopeHandle {
    /// Registers a cleanup, as [`AsyncScope::defer`].
    ///
    /// # Errors
    ///
    /// [`ScopeClosed`]: the closure was dropped, and will not run.
    #[track_caller]
    pub fn defer<F, Fut>(&self, cleanup: F) -> Result<AsyncDeferred, ScopeClosed>
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        self.0.push(cleanup, Kind::default(), Location::caller())
    }

    /// Spawns a task that cannot outlive the scope, as [`AsyncScope::spawn`].
    ///
    /// # Errors
    ///
    /// [`ScopeClosed`]: the task was not spawned, or, where the scope closed that very moment, is aborted.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<Task<T>, ScopeClosed> {
        if self.0.is_closed() {
            return Err(ScopeClosed::new());
        }
        spawn_into(&self.0, name, TaskPanic::Isolate, task, Location::caller())
    }
}

/// Disarms what is owed by an async scope, from elsewhere.
#[derive(Clone)]
pub struct WeakScopeHandle(Weak<Shared>);

impl WeakScopeHandle {
    /// As [`AsyncScope::disarm`]; `false` also when the scope is gone.
    pub fn disarm(&self, deferred: AsyncDeferred) -> bool {
        self.0.upgrade().is_some_and(|scope| scope.disarm(deferred))
    }
}

/// Spawns a task that the scope owes the end of. One that closes that very moment aborts it.
fn spawn_into<T: Send + 'static>(
    scope: &Arc<Shared>,
    name: &str,
    policy: TaskPanic,
    task: impl Future<Output = T> + Send + 'static,
    place: &'static Location<'static>,
) -> Result<Task<T>, ScopeClosed> {
    let (task, owed) = task::spawn(name, policy, scope.left_of_tasks(), in_scopes(scope.with_around(), task));
    let kind = Kind { abort: Some(task.abort_handle()), ..Kind::default() };
    match scope.push(owed, kind, place) {
        Ok(deferred) => Ok(task.owed_by(Arc::downgrade(scope), deferred)),
        Err(closed) => {
            task.abort();
            Err(closed)
        }
    }
}
