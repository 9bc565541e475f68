//! A foreign `process::exit`: what is on the stack is stopped all the same.
//!
//! `exit` runs its handlers on the calling thread, with every other thread still going. The
//! handler here does no work on that thread: it may hold locks, it may be a worker of the runtime,
//! or the one that polls `run`. A thread of the hook's own drives the stop, on the program's runtime
//! where that has another worker, drain included. Where the exiting thread may be the only one, the
//! stack is paid on a runtime of the hook's own, in a hurry: nothing that needs the program's own
//! runtime can end well there.
//!
//! The owner of a cleanup may still be running meanwhile, on its own thread. That is the price of
//! `exit`; [`App::exit`](crate::App::exit) does not have it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::app::Inner;
use crate::state::{ThreadMark, Trigger};
use crate::stop;

/// Armed while a run is active. At most one run of a process is.
pub(crate) struct ExitHook {
    shared: Arc<Shared>,
    stays: bool,
}

struct Shared {
    inner: Arc<Inner>,
    /// The program's runtime, if it can go on without the exiting thread.
    runtime: Option<Handle>,
    exiting: AtomicBool,
    /// The run was dropped: nobody drives the stop until the process exits.
    abandoned: AtomicBool,
    done: Mutex<bool>,
    changed: Condvar,
    pid: u32,
}

impl ExitHook {
    /// Arms the hook for this run; `None` when another run has it.
    pub(crate) fn arm(inner: &Arc<Inner>) -> Option<ExitHook> {
        static REGISTERED: Mutex<bool> = Mutex::new(false);
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        if !*registered {
            *registered = crate::os::at_exit(at_exit);
        }
        let mut armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
        if armed.is_some() {
            return None;
        }
        let shared = Arc::new(Shared {
            inner: Arc::clone(inner),
            runtime: stop::spare_runtime(),
            exiting: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            done: Mutex::new(false),
            changed: Condvar::new(),
            pid: std::process::id(),
        });
        *armed = Some(Arc::clone(&shared));
        Some(ExitHook { shared, stays: false })
    }

    /// Whether somebody is inside `exit`, waiting for the stop.
    pub(crate) fn exiting(&self) -> bool {
        self.shared.exiting.load(Ordering::Acquire)
    }

    /// The run was dropped in the middle: what it started is still owed when the process exits.
    pub(crate) fn stay_armed(mut self) {
        self.stays = true;
        self.shared.abandoned.store(true, Ordering::Release);
    }
}

impl Drop for ExitHook {
    fn drop(&mut self) {
        if !self.stays {
            epilogue_task::on_task_panic(None);
            epilogue_task::lane::waited_for_elsewhere(false);
            ARMED.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Whoever is inside `exit` by now waits for nothing any more.
            self.shared.finish();
        }
    }
}

/// The run that owns this process, if one is active.
pub(crate) fn active() -> Option<Arc<Inner>> {
    let armed = ARMED.lock().unwrap_or_else(PoisonError::into_inner);
    let driven =
        |shared: &&Arc<Shared>| shared.pid == std::process::id() && !shared.abandoned.load(Ordering::Acquire);
    armed.as_ref().filter(driven).map(|shared| Arc::clone(&shared.inner))
}

impl Shared {
    fn finish(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(done, limit, |done| !*done)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

static ARMED: Mutex<Option<Arc<Shared>>> = Mutex::new(None);

extern "C" fn at_exit() {
    let armed = ARMED.try_lock().ok().and_then(|armed| armed.clone());
    let Some(shared) = armed else { return };
    // A forked child inherits the handler and must not pay its parent's debts.
    if shared.pid != std::process::id() {
        return;
    }
    shared.exiting.store(true, Ordering::Release);
    let theirs = Arc::clone(&shared);
    // A wake-up sent from a worker thread stays in that worker's own slot, and this one may be a
    // worker that will not run again: so everything happens on another thread.
    let thread = ThreadMark::here();
    let started =
        std::thread::Builder::new().name("epilogue-exit".into()).spawn(move || drive(&theirs, thread));
    if started.is_err() {
        return;
    }
    // What ends well may give its time to what comes later.
    let began = std::time::Instant::now();
    let mut limit = Duration::ZERO;
    while limit < shared.inner.lets_exit_after() {
        limit = shared.inner.lets_exit_after();
        shared.wait((began + limit).saturating_duration_since(std::time::Instant::now()));
        if *shared.done.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
    }
}

fn drive(shared: &Arc<Shared>, exiting: ThreadMark) {
    let inner = &shared.inner;
    // Whoever drives the stop on the thread that is inside `exit` will never go on.
    let mine = stop::claim(inner) || exiting.is(inner.run_thread.load(Ordering::Acquire));
    inner.control.begin_exit(exiting);
    // Nor will what the program's runtime has queued on it.
    epilogue_task::lane::rescue();
    if !mine {
        // The stop is under way: whoever drives it lets the exiting thread go.
        return;
    }
    stop::pay_elsewhere(inner, shared.runtime.as_ref(), Trigger::ProcessExit, None);
    shared.finish();
}
