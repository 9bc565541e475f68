//! Reload: what SIGHUP means to a program that knows what to read again.

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use epilogue_scope::record::Context;
use epilogue_task::isolated;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::app::{App, Inner};
use crate::error::Error;
use crate::os;
use crate::part::BoxFuture;

/// What is to be read again, in the order in which it was said.
#[derive(Default)]
pub(crate) struct Reload {
    hooks: Mutex<Vec<Hook>>,
    /// Held by the one that runs.
    turn: tokio::sync::Mutex<()>,
    /// One waits for its turn, and will read what is there then: a further one would tell nothing new.
    queued: AtomicBool,
    runtime: OnceLock<Handle>,
    /// The latest that SIGHUP has begun.
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Clone)]
struct Hook {
    name: Arc<str>,
    place: &'static Location<'static>,
    run: Arc<dyn Fn() -> BoxFuture<Result<(), Error>> + Send + Sync>,
}

impl App {
    /// Says what is to be done when the program is to read its configuration again. With one of these, SIGHUP
    /// reloads as long as the program is not stopping; without any it stops the program.
    ///
    /// The hooks run one after the other, in the order in which they were registered, each isolated: one that
    /// fails or panics is reported, and the program goes on as it was. While they run a further SIGHUP makes
    /// them run once more. The stop waits for a reload that is under way as long as for the body; then it is cut.
    /// A hook must not await [`reload`](App::reload): it would wait for itself.
    ///
    /// # Examples
    ///
    /// ```
    /// # use epilogue_process::{App, Error, Options, run_with};
    /// # use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let limit = Arc::new(AtomicU32::new(0));
    /// let read = limit.clone();
    /// run_with(Options::embedded(), async |app: &App| {
    ///     app.on_reload("limit", move || {
    ///         let limit = read.clone();
    ///         async move {
    ///             limit.store(7, Ordering::Relaxed);         // … read a file
    ///             Ok(())
    ///         }
    ///     });
    ///     app.reload().await                                 // as SIGHUP does
    /// })
    /// .await;
    /// assert_eq!(limit.load(Ordering::Relaxed), 7);
    /// # }
    /// ```
    #[track_caller]
    pub fn on_reload<F, Fut>(&self, name: impl Into<String>, hook: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let name = name.into().into();
        let run = Arc::new(move || Box::pin(hook()) as BoxFuture<_>);
        self.inner.reload.lock().push(Hook { name, place: Location::caller(), run });
    }

    /// Reloads now, as SIGHUP does. Without a hook there is nothing to do.
    ///
    /// # Errors
    ///
    /// What the hooks that failed said; [stopping](Error::is_stopping) once the stop has begun, and then none
    /// was run.
    ///
    /// # Cancel safety
    ///
    /// Dropped in the middle, the hook that was running is cut, and the later ones do not run.
    pub async fn reload(&self) -> Result<(), Error> {
        run(&self.inner).await
    }
}

impl Reload {
    /// SIGHUP reloads from now on on this runtime.
    pub(crate) fn attach(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime);
    }

    /// The program's runtime, once it runs.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.runtime.get().cloned()
    }

    /// Whether anybody has said what to do.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Returns when no reload is under way.
    pub(crate) async fn settled(&self) {
        drop(self.turn.lock().await);
    }

    /// Cuts the one that SIGHUP has begun.
    pub(crate) fn abort(&self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }

    /// The program is over: nothing keeps what the hooks hold.
    pub(crate) fn forget(&self) {
        let hooks = std::mem::take(&mut *self.lock());
        drop(hooks);
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Hook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGHUP came. What fails is said.
pub(crate) fn begin(inner: &Arc<Inner>) {
    let Some(runtime) = inner.reload.runtime.get() else { return };
    if inner.reload.queued.swap(true, Ordering::AcqRel) {
        return;
    }
    let theirs = Arc::clone(inner);
    let task = runtime.spawn(async move {
        // A READY of ours would be taken for the end of a start that goes on.
        let tells = theirs.ready.load(Ordering::Acquire);
        if tells {
            theirs.systemd.reloading();
        }
        let reloaded = run(&theirs).await;
        if tells {
            theirs.systemd.reloaded();
        }
        match reloaded {
            Ok(()) => os::say("epilogue: reloaded"),
            Err(error) if error.is_stopping() => {}
            Err(error) => os::say(&format!("epilogue: {error}; the program goes on as it was")),
        }
    });
    *inner.reload.task() = Some(task.abort_handle());
}

async fn run(inner: &Arc<Inner>) -> Result<(), Error> {
    let reload = &inner.reload;
    let _turn = reload.turn.lock().await;
    reload.queued.store(false, Ordering::Release);
    if inner.control.now().stopping() {
        return Err(Error::stopping());
    }
    let hooks = reload.lock().clone();
    let mut failed = Vec::new();
    for hook in &hooks {
        // Within the isolation, so that a hook that panics before it has made its future is isolated too.
        let ran = isolated(Context::of_task(&*hook.name), async { (hook.run)().await }).await;
        let why = match ran {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(caught) => format!("panicked: {}", caught.describe()),
        };
        failed.push(format!("{} ({}): {why}", hook.name, hook.place));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (count, all) = (failed.len(), hooks.len());
    Err(Error::msg(format!("{count} of {all} reload hooks failed: {}", failed.join("; "))))
}
