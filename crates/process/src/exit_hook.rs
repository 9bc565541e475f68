//! A foreign `process::exit`: what is on the stack is stopped all the same.
//!
//! `exit` runs its handlers on the calling thread, with every other thread still going. The
//! handler here does no work on that thread: it may hold locks, and it may be a worker of the
//! runtime. It begins the stop from a thread of its own and waits, bounded. Where the runtime has
//! another worker, `run` drives the stop as always, drain included; where the exiting thread was
//! the only one, the stack is paid on a runtime of the hook's own.
//!
//! The owner of a cleanup may still be running meanwhile, on its own thread. That is the price of
//! `exit`; [`App::exit`](crate::App::exit) does not have it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use crate::app::Inner;
use crate::state::ThreadMark;
use crate::stop;

/// Armed while a run is active. At most one run of a process is.
pub(crate) struct ExitHook {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Arc<Inner>,
    budget: Duration,
    can_wait_for_run: bool,
    exiting: AtomicBool,
    done: Mutex<bool>,
    changed: Condvar,
    pid: u32,
}

impl ExitHook {
    /// Arms the hook for this run; `None` when another run has it.
    pub(crate) fn arm(inner: &Arc<Inner>, budget: Duration) -> Option<ExitHook> {
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
            budget,
            can_wait_for_run: Handle::try_current().is_ok_and(|handle| has_spare_worker(&handle)),
            exiting: AtomicBool::new(false),
            done: Mutex::new(false),
            changed: Condvar::new(),
            pid: std::process::id(),
        });
        *armed = Some(Arc::clone(&shared));
        Some(ExitHook { shared })
    }

    /// Whether somebody is inside `exit`, waiting for the stop.
    pub(crate) fn exiting(&self) -> bool {
        self.shared.exiting.load(Ordering::Acquire)
    }

    /// Lets the thread inside `exit` go on: the stop is over.
    pub(crate) fn release(&self) {
        self.shared.finish();
    }
}

impl Drop for ExitHook {
    fn drop(&mut self) {
        if !self.exiting() {
            ARMED.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
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

fn has_spare_worker(handle: &Handle) -> bool {
    handle.runtime_flavor() == RuntimeFlavor::MultiThread && handle.metrics().num_workers() > 1
}

extern "C" fn at_exit() {
    let armed = ARMED.try_lock().ok().and_then(|armed| armed.clone());
    let Some(shared) = armed else { return };
    // A forked child inherits the handler and must not pay its parent's debts.
    if shared.pid != std::process::id() {
        return;
    }
    shared.exiting.store(true, Ordering::Release);
    let limit = shared.budget;
    let theirs = Arc::clone(&shared);
    // A wake-up sent from a worker thread stays in that worker's own slot, and this one may be a
    // worker that will not run again: so everything happens on another thread.
    let thread = ThreadMark::here();
    let started =
        std::thread::Builder::new().name("epilogue-exit".into()).spawn(move || drive(&theirs, thread));
    if started.is_ok() {
        shared.wait(limit);
    }
}

fn drive(shared: &Arc<Shared>, exiting: ThreadMark) {
    let inner = &shared.inner;
    inner.control.begin_exit(exiting);
    if shared.can_wait_for_run || !stop::claim(inner) {
        return;
    }
    inner.stack.announce();
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        runtime.block_on(stop::pay(inner, Instant::now(), shared.budget));
    }
    shared.finish();
}
