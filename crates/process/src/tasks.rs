//! The tasks and threads of an app.

use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Weak};
use std::time::Duration;

use epilogue_scope::Caught;
use epilogue_scope::record::{Context, Finished, in_context};
use epilogue_task::{Debts, TaskPanic, isolated_with, within_reach};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

use crate::app::{App, Inner};
use crate::budget;
use crate::error::Error;
use crate::part::{Started, Stop};
use crate::report::StepKind;
use crate::state::{StopCx, StopToken, Trigger};

impl App {
    /// Spawns a task. At its place in the stack it is cancelled, at its next `.await`, and awaited.
    ///
    /// For work that must not be cut between two of its steps see [`spawn_until`](App::spawn_until).
    /// A panic in the task is isolated, unless [`Options::on_task_panic`](crate::Options::on_task_panic) says otherwise.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn spawn(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let name = name.into();
        let debts = Debts::new();
        let task = isolated_with(Context::of_task(name.as_str()), debts.clone(), task);
        let (shell, reach) = within_reach(task);
        // Whoever has dropped it from outside knows how that ended.
        let handle = tokio::spawn(async move { shell.await.unwrap_or(Ok(())) });
        let abort = handle.abort_handle();
        self.push_task(
            name,
            StepKind::Task,
            Location::caller(),
            (handle, debts),
            budget::TASK_FLOOR,
            move || {
                let Some(dropped) = reach.drop_now() else {
                    abort.abort();
                    return Told::Cancelled(None);
                };
                let ended = match Ended::of(Ok(dropped)) {
                    Ended::ByItself => Ended::Cancelled,
                    ended => ended,
                };
                Told::Cancelled(Some((ended, abort)))
            },
        );
    }

    /// Spawns a task that ends by itself when told: at its place in the stack the token fires, and
    /// the task has the rest of its step's time to finish. Only then is it cancelled.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn spawn_until<Fut>(&self, name: impl Into<String>, task: impl FnOnce(StopToken) -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (tell, token) = StopToken::new();
        let name = name.into();
        let debts = Debts::new();
        let handle = tokio::spawn(isolated_with(Context::of_task(name.as_str()), debts.clone(), task(token)));
        self.push_task(name, StepKind::Task, Location::caller(), (handle, debts), budget::FLOOR, move || {
            tell.send_replace(true);
            Told::ToEnd
        });
    }

    /// Runs blocking code on a thread of the runtime's pool. At its place in the stack the token
    /// fires and the thread is awaited; a thread that does not come back in time is named,
    /// abandoned, and cannot hold the exit.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn spawn_blocking(&self, name: impl Into<String>, work: impl FnOnce(StopToken) + Send + 'static) {
        let (tell, token) = StopToken::new();
        let name = name.into();
        let context = Context::of_task(name.as_str());
        let handle = tokio::task::spawn_blocking(move || {
            in_context(&context, || epilogue_scope::catch(|| work(token)))
        });
        self.push_task(
            name,
            StepKind::Thread,
            Location::caller(),
            (handle, Debts::new()),
            budget::FLOOR,
            move || {
                tell.send_replace(true);
                Told::ToEnd
            },
        );
    }

    /// `tell` makes the task end.
    fn push_task(
        &self,
        name: String,
        kind: StepKind,
        place: &'static Location<'static>,
        (handle, debts): (JoinHandle<Result<(), Caught>>, Debts),
        floor: Duration,
        tell: impl FnOnce() -> Told + Send + 'static,
    ) {
        let id = self.inner.stack.next_id();
        let cut = CutOnDrop(Some(handle.abort_handle()));
        let (ended, end) = oneshot::channel();
        let owed = debts.clone();
        let Started { stop, .. } = Started::new((), async move |cx: StopCx| {
            let ended = match tell() {
                Told::Cancelled(Some((ended, shell))) => {
                    cx.word.abort_later(shell);
                    // What it owed when it was cancelled may need what is older on the stack.
                    owed.paid().await;
                    ended
                }
                Told::Cancelled(None) | Told::ToEnd => end.await.unwrap_or(Ended::Cancelled),
            };
            cut.disarm();
            match ended {
                Ended::Panicked(message) => Err(Error::msg(format!("panicked: {message}"))),
                Ended::ByItself | Ended::Cancelled => Ok(()),
            }
        });
        let stop = Stop { floor, ..stop };
        self.push_step(id, name.clone(), kind, place, stop);
        tokio::spawn(watch_task(Arc::downgrade(&self.inner), id, name, (handle, debts), ended));
    }
}

/// What a task was told.
enum Told {
    ToEnd,
    /// How that went, where it is known at once, and what is left of the task.
    Cancelled(Option<(Ended, AbortHandle)>),
}

/// How a task has ended.
enum Ended {
    ByItself,
    Cancelled,
    Panicked(String),
}

impl Ended {
    fn of(joined: Result<Result<(), Caught>, JoinError>) -> Ended {
        match joined {
            Ok(Ok(())) => Ended::ByItself,
            // An exit of the task is an end like any other.
            Ok(Err(caught)) if caught.chain().exits_task() => Ended::ByItself,
            Ok(Err(caught)) => Ended::Panicked(caught.describe()),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => Ended::Panicked(epilogue_scope::describe(&*payload)),
                Err(_) => Ended::Cancelled,
            },
        }
    }
}

/// Notices the end of a task when it happens, not only at the stop: a task that has ended well owes
/// nothing more, and one that panicked may be a reason to stop.
async fn watch_task(
    inner: Weak<Inner>,
    id: u64,
    name: String,
    (handle, debts): (JoinHandle<Result<(), Caught>>, Debts),
    tell: oneshot::Sender<Ended>,
) {
    let ended = Ended::of(handle.await);
    // What it owed when it was cancelled may need what is older on the stack.
    debts.paid().await;
    let Some(inner) = inner.upgrade() else { return };
    match &ended {
        // Of one that ends because the program stops its step of the stop tells.
        Ended::ByItself | Ended::Cancelled if inner.control.now().stopping() => {}
        Ended::ByItself | Ended::Cancelled => {
            if let Some(mut step) = inner.stack.remove(id) {
                step.registration.finish(Finished::Ran);
            }
        }
        Ended::Panicked(message) if inner.options.task_panic == TaskPanic::Stop => {
            inner.control.begin(Trigger::TaskPanicked { task: name, message: message.clone() });
        }
        Ended::Panicked(_) => {}
    }
    // The stop may be waiting for it, or may never come to it.
    let _ = tell.send(ended);
}

/// Cancels a task whose stop was cut off at its deadline.
struct CutOnDrop(Option<AbortHandle>);

impl CutOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
