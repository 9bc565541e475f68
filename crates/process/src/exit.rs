//! `exit`: what `std::process::exit` skips, runs.

use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use epilogue_scope::task;
use tokio::sync::watch;

use crate::{exit_hook, os};

/// Ends the process with `code`, after what is owed was paid: first what the calling thread owes, up
/// to its outermost frame (guards, scopes, newest first; no cleanup can recover it); then, if a
/// [`run`](crate::run) is active, its whole stop within its budget; then the async cleanups of
/// futures that were dropped.
///
/// The first call decides the code. What other threads owe on their stacks is not paid: nothing can
/// unwind a thread from outside. Tasks of `run` and of scopes that `run` awaits are stopped in
/// order.
///
/// # How the thread is left
///
/// By unwinding, without a message. A foreign `catch_unwind` on the way ends that: what lies beneath
/// it on the same thread goes on until the process is gone. Where somebody keeps the payload, as a
/// `JoinHandle` of a task that is not awaited does, the end of the unwinding cannot be seen, and the
/// process waits 2 s for it.
///
/// Called while the thread unwinds already, it does not unwind a second time: a destructor on the
/// way could not survive that. The cleanups run that the unwinding reaches before the process is
/// gone. Under `panic = "abort"` nothing can be unwound, and the rest is paid.
///
/// # Examples
///
/// ```no_run
/// use epilogue_process::exit;
/// use epilogue_scope::defer;
///
/// fn main() {
///     defer!(println!("runs, and the status is 3"));
///     exit(3);
/// }
/// ```
pub fn exit(code: u8) -> ! {
    let unwinding = Unwinding::of_first_call(code);
    let run = exit_hook::active();
    if let Some(inner) = &run {
        inner.code.store(unwinding.code, Ordering::Relaxed);
        inner.control.begin(crate::Trigger::Asked);
    }
    if cfg!(panic = "abort") || std::thread::panicking() {
        unwinding.settle();
        leave(&unwinding, run.is_some());
        loop {
            std::thread::park();
        }
    }
    os::exit_code_will_be(unwinding.code);
    leave(&unwinding, run.is_some());
    tell_when_the_thread_ends(&unwinding);
    task::exit_task_with(Box::new(SettleOnDrop(unwinding)) as Box<dyn Any + Send>)
}

/// What the stop has to wait for: a thread that called [`exit`] and is not unwound yet.
pub(crate) fn unwound() -> Option<impl Future<Output = ()>> {
    let unwinding = FIRST.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    let mut settled = unwinding.told.subscribe();
    let limit = unwinding.limit;
    Some(async move {
        let _ = tokio::time::timeout(limit, settled.wait_for(|settled| *settled)).await;
    })
}

static FIRST: Mutex<Option<Arc<Unwinding>>> = Mutex::new(None);

/// A thread on its way out.
struct Unwinding {
    code: u8,
    limit: Duration,
    settled: Mutex<bool>,
    changed: Condvar,
    told: watch::Sender<bool>,
}

impl Unwinding {
    fn of_first_call(code: u8) -> Arc<Unwinding> {
        let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        let unwinding = first.get_or_insert_with(|| {
            Arc::new(Unwinding {
                code,
                limit: limit(),
                settled: Mutex::new(false),
                changed: Condvar::new(),
                told: watch::Sender::new(false),
            })
        });
        Arc::clone(unwinding)
    }

    fn settle(&self) {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        self.told.send_replace(true);
    }

    fn wait(&self) {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(settled, self.limit, |settled| !*settled)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

/// In a task, somebody may keep the payload for ever. Elsewhere the end of the thread is seen.
fn limit() -> Duration {
    let in_a_task = tokio::runtime::Handle::try_current().is_ok();
    if in_a_task { Duration::from_secs(2) } else { Duration::from_secs(28) }
}

/// Ends the process when the thread is unwound, unless `run` does.
fn leave(unwinding: &Arc<Unwinding>, run_ends_it: bool) {
    if run_ends_it {
        return;
    }
    let theirs = Arc::clone(unwinding);
    let wait = move || {
        theirs.wait();
        std::process::exit(i32::from(theirs.code))
    };
    if std::thread::Builder::new().name("epilogue-exit".into()).spawn(wait).is_err() {
        std::process::exit(i32::from(unwinding.code));
    }
}

struct SettleOnDrop(Arc<Unwinding>);

impl Drop for SettleOnDrop {
    fn drop(&mut self) {
        self.0.settle();
    }
}

fn tell_when_the_thread_ends(unwinding: &Arc<Unwinding>) {
    thread_local!(static END: RefCell<Option<SettleOnDrop>> = const { RefCell::new(None) });
    // Where the thread is being torn down there is nothing left to wait for.
    let _ = END.try_with(|end| end.replace(Some(SettleOnDrop(Arc::clone(unwinding)))));
}
