//! Tasks of a scope.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use epilogue_scope::record::Context as RecordContext;
use epilogue_scope::{Caught, How, catch, report};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::boundary::isolated_with;
use crate::debts::Debts;
use crate::left::Left;
use crate::policy::{TaskPanic, stop_the_program};
use crate::reach::{Reach, within_reach};
use crate::scope::ScopeHandle;
use crate::shared::Shared;
use crate::stack::{AsyncDeferred, ScopeClosed};

/// A task that its scope awaits. A future: its result, or why there is none.
///
/// Dropping it neither ends the task nor lets it outlive its scope.
pub struct Task<T> {
    result: oneshot::Receiver<Result<T, TaskError>>,
    abort: AbortHandle,
    reach: Reach<()>,
    what: String,
    owed_by: Option<(Weak<Shared>, AsyncDeferred)>,
}

/// Why a task has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It panicked; the messages of its panics, oldest first.
    #[error("the task panicked: {message}")]
    Panicked {
        /// The messages, `; then ` between them.
        message: String,
    },
    /// It called [`exit_task`](epilogue_scope::task::exit_task).
    #[error("the task exited")]
    Exited,
    /// It was cancelled, or its runtime is gone.
    #[error("the task was cancelled")]
    Cancelled,
}

impl<T> Task<T> {
    /// Cancels the task at its next `.await`. Its own cleanups run, the async ones on the lane.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Whether it has come to its end.
    pub fn is_finished(&self) -> bool {
        self.abort.is_finished() || self.reach.was_dropped()
    }

    /// Makes another scope the one that the task cannot outlive.
    ///
    /// # Errors
    ///
    /// [`ScopeClosed`], when the other has paid everything, or the task is not on its scope any more: it
    /// has come to its place among the cleanups, or was moved with the rest of them. It stays where it is.
    pub fn hand_over(&mut self, to: &ScopeHandle) -> Result<(), ScopeClosed> {
        let owner = self.owed_by.as_ref().and_then(|(from, deferred)| Some((from.upgrade()?, *deferred)));
        let Some((from, deferred)) = owner else { return Err(ScopeClosed {}) };
        from.move_one_to(deferred, &to.0)?;
        self.owed_by = Some((Arc::downgrade(&to.0), deferred));
        Ok(())
    }

    pub(crate) fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    pub(crate) fn owed_by(mut self, scope: Weak<Shared>, deferred: AsyncDeferred) -> Task<T> {
        self.owed_by = Some((scope, deferred));
        self
    }
}

/// A panic that nobody has been told of is reported.
impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Ok(Err(TaskError::Panicked { message })) = self.result.try_recv() {
            report::panicked(&self.what, &message as &(dyn std::any::Any + Send));
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map(|told| told.unwrap_or(Err(TaskError::Cancelled)))
    }
}

/// Spawns a task. Returns it, and what its scope owes: to see it ended.
#[track_caller]
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    policy: TaskPanic,
    left: Arc<Left>,
    task: impl Future<Output = T> + Send + 'static,
) -> (Task<T>, impl FnOnce(How) -> Ending + Send + 'static) {
    let (tell, result) = oneshot::channel();
    let context = RecordContext::of_task(name);
    let what = format!("the task {name}");
    let name: Arc<str> = name.into();
    let debts = Debts::new();
    let (owed, named) = (debts.clone(), Arc::clone(&name));
    // Also what it owes that was cancelled before it was ever polled is its own.
    let isolated = isolated_with(context, owed, task);
    let (shell, reach) = within_reach(async move {
        let outcome = isolated.await;
        conclude(&named, policy, outcome, tell);
    });
    let running = tokio::spawn(shell);
    let task = Task { result, abort: running.abort_handle(), reach: reach.clone(), what, owed_by: None };
    (task, move |how| Spawned { name, policy, running, reach, debts }.ended(how, &left))
}

fn conclude<T>(
    name: &str,
    policy: TaskPanic,
    outcome: Result<T, Caught>,
    tell: oneshot::Sender<Result<T, TaskError>>,
) {
    let told = match outcome {
        Ok(result) => Ok(result),
        Err(caught) if caught.chain().exits_task() => Err(TaskError::Exited),
        Err(caught) => Err(TaskError::Panicked { message: panicked(name, policy, &caught) }),
    };
    if let Err(Err(TaskError::Panicked { message })) = tell.send(told) {
        report::panicked(&format!("the task {name}"), &message as &(dyn std::any::Any + Send));
    }
}

/// What its panic said; the program stops if its policy is so.
fn panicked(name: &str, policy: TaskPanic, caught: &Caught) -> String {
    let message = caught.describe();
    if policy == TaskPanic::Stop {
        stop_the_program(name, &message);
    }
    message
}

/// Nobody waits for what becomes of a task that is cancelled.
fn panicked_when_dropped(name: &str, policy: TaskPanic, dropped: Result<(), Caught>) {
    if let Err(caught) = dropped
        && !caught.chain().exits_task()
    {
        let message = panicked(name, policy, &caught);
        report::panicked(&format!("the task {name}"), &message as &(dyn std::any::Any + Send));
    }
}

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Spawned {
    name: Arc<str>,
    policy: TaskPanic,
    running: JoinHandle<Option<()>>,
    reach: Reach<()>,
    debts: Debts,
}

impl Spawned {
    /// Sees it ended, with all it owed: awaits it, and cancels it first unless its scope's body returned.
    fn ended(self, how: How, left: &Left) -> Ending {
        if how == How::Returned {
            return Box::pin(self.joined());
        }
        let Some(dropped) = self.reach.drop_now() else {
            self.running.abort();
            return Box::pin(self.joined());
        };
        left.abort_later(self.running.abort_handle());
        panicked_when_dropped(&self.name, self.policy, dropped);
        let debts = self.debts;
        Box::pin(async move { debts.paid().await })
    }

    async fn joined(self) {
        // What came of it was told to its `Task`, but for a panic when it was dropped.
        if let Err(error) = self.running.await
            && let Ok(payload) = error.try_into_panic()
        {
            let raised = catch(|| std::panic::resume_unwind(payload));
            panicked_when_dropped(&self.name, self.policy, raised);
        }
        self.debts.paid().await;
    }
}
