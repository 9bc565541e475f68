//! Tasks of a scope.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use epilogue_scope::record::Context as RecordContext;
use epilogue_scope::{Caught, How, report};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinHandle};

use crate::boundary::isolated;
use crate::policy::{TaskPanic, stop_the_program};
use crate::scope::ScopeHandle;
use crate::stack::{AsyncDeferred, ScopeClosed, Shared};

/// A task that its scope awaits. A future: its result, or why there is none.
///
/// Dropping it neither ends the task nor lets it outlive its scope.
pub struct Task<T> {
    result: oneshot::Receiver<Result<T, TaskError>>,
    abort: AbortHandle,
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
        self.abort.is_finished()
    }

    /// Makes another scope the one that the task cannot outlive.
    ///
    /// # Errors
    ///
    /// [`ScopeClosed`], when the other has paid everything: the task stays where it is.
    pub fn hand_over(&mut self, to: &ScopeHandle) -> Result<(), ScopeClosed> {
        let Some((from, deferred)) = &self.owed_by else { return Ok(()) };
        let Some(from) = from.upgrade() else { return Ok(()) };
        let Some(entry) = from.take(*deferred) else { return Ok(()) };
        match to.0.adopt(entry) {
            Ok(deferred) => {
                self.owed_by = Some((Arc::downgrade(&to.0), deferred));
                Ok(())
            }
            Err((entry, closed)) => {
                from.put_back(entry);
                Err(closed)
            }
        }
    }

    pub(crate) fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    pub(crate) fn owed_by(mut self, scope: Weak<Shared>, deferred: AsyncDeferred) -> Task<T> {
        self.owed_by = Some((scope, deferred));
        self
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map(|told| told.unwrap_or(Err(TaskError::Cancelled)))
    }
}

/// Spawns a task. Returns it, and what its scope owes: to see it ended.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    policy: TaskPanic,
    task: impl Future<Output = T> + Send + 'static,
) -> (Task<T>, impl FnOnce(How) -> Ended + Send + 'static) {
    let (tell, result) = oneshot::channel();
    let context = RecordContext::of_task(name);
    let name: Arc<str> = name.into();
    let running = tokio::spawn(async move {
        let outcome = isolated(context, task).await;
        conclude(&name, policy, outcome, tell);
    });
    let abort = running.abort_handle();
    let task = Task { result, abort, owed_by: None };
    (task, move |how| Ended::of(running, how))
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
        Err(caught) => {
            let message = caught.describe();
            if policy == TaskPanic::Stop {
                stop_the_program(name, &message);
            }
            Err(TaskError::Panicked { message })
        }
    };
    if let Err(Err(TaskError::Panicked { message })) = tell.send(told) {
        report::panicked(&format!("the task {name}"), &message as &(dyn std::any::Any + Send));
    }
}

/// Sees a task ended: awaits it, and cancels it first unless its scope's body returned.
pub(crate) struct Ended(JoinHandle<()>);

impl Ended {
    fn of(running: JoinHandle<()>, how: How) -> Ended {
        if how != How::Returned {
            running.abort();
        }
        Ended(running)
    }
}

impl Future for Ended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}
