//! `exit`: what `std::process::exit` skips, runs.

use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
/// it on the same thread goes on until the process is gone. The process waits for the unwinding, at most
/// 28 s; but 5 s in a task, because where somebody keeps the payload, as a `JoinHandle` that is not
/// awaited does, the end of it cannot be seen.
///
/// Called while the thread unwinds already (in a plain `defer!`, say), it does not unwind a second time:
/// a foreign destructor on the way could not survive that. The thread stops there, and what lies beneath
/// is left out. In a cleanup of a scope, or in `defer!(|_| …)`, it is not unwinding, and all is paid. Under `panic = "abort"` nothing can be unwound, and the rest is paid.
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
    let unwinds = !cfg!(panic = "abort") && !std::thread::panicking();
    let token = unwinds.then(|| Token::new(&unwinding));
    if run.is_none() {
        os::exit_code_will_be(unwinding.code);
        leave(&unwinding);
    }
    match token {
        Some(token) => {
            tell_when_the_thread_ends(&token);
            task::exit_task_with(Box::new(token) as Box<dyn Any + Send>)
        }
        None => loop {
            std::thread::park();
        },
    }
}

/// What the stop has to wait for: threads that called [`exit`] and are not unwound yet.
pub(crate) fn unwound() -> Option<impl Future<Output = ()>> {
    let unwinding = first()?;
    let mut threads = unwinding.told.subscribe();
    let limit = unwinding.limit;
    Some(async move {
        let _ = tokio::time::timeout(limit, threads.wait_for(|threads| *threads == 0)).await;
    })
}

/// The same in an exit handler: `main` may return while another thread is on its way out.
pub(crate) fn wait_until_unwound() {
    if let Some(unwinding) = first() {
        unwinding.wait();
    }
}

fn first() -> Option<Arc<Unwinding>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

static FIRST: Mutex<Option<Arc<Unwinding>>> = Mutex::new(None);

/// The way out, for every thread that has called [`exit`].
struct Unwinding {
    code: u8,
    limit: Duration,
    state: Mutex<State>,
    changed: Condvar,
    told: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// Once is enough, for all that it is asked twice.
    given_up: bool,
}

impl Unwinding {
    fn of_first_call(code: u8) -> Arc<Unwinding> {
        let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        let unwinding = first.get_or_insert_with(|| {
            Arc::new(Unwinding {
                code,
                limit: limit(),
                state: Mutex::default(),
                changed: Condvar::new(),
                told: watch::Sender::new(0),
            })
        });
        Arc::clone(unwinding)
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        let threads = {
            let mut state = self.lock();
            change(&mut state.threads);
            state.threads
        };
        self.changed.notify_all();
        self.told.send_replace(threads);
    }

    fn wait(&self) {
        let waits = |state: &mut State| state.threads > 0 && !state.given_up;
        let waited = self.changed.wait_timeout_while(self.lock(), self.limit, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.given_up = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In a task, somebody may keep the payload for ever. Elsewhere the end is seen.
fn limit() -> Duration {
    let in_a_task = tokio::task::try_id().is_some();
    if in_a_task { Duration::from_secs(5) } else { Duration::from_secs(28) }
}

/// Ends the process when every thread that is on its way out is unwound.
fn leave(unwinding: &Arc<Unwinding>) {
    let theirs = Arc::clone(unwinding);
    let wait = move || {
        theirs.wait();
        std::process::exit(i32::from(theirs.code))
    };
    if std::thread::Builder::new().name("epilogue-exit".into()).spawn(wait).is_err() {
        std::process::exit(i32::from(unwinding.code));
    }
}

/// One thread on its way out. It travels with the unwinding, and another one waits for the end of the
/// thread: the first of them to be dropped tells that it is unwound.
#[derive(Clone)]
struct Token(Arc<OnItsWay>);

struct OnItsWay {
    unwinding: Arc<Unwinding>,
    over: AtomicBool,
}

impl Token {
    fn new(unwinding: &Arc<Unwinding>) -> Token {
        unwinding.count(|threads| *threads += 1);
        Token(Arc::new(OnItsWay { unwinding: Arc::clone(unwinding), over: AtomicBool::new(false) }))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.0.over.swap(true, Ordering::AcqRel) {
            self.0.unwinding.count(|threads| *threads -= 1);
        }
    }
}

fn tell_when_the_thread_ends(token: &Token) {
    thread_local!(static ENDS: RefCell<Vec<Token>> = const { RefCell::new(Vec::new()) });
    // Where the thread is being torn down there is nothing left to wait for.
    let _ = ENDS.try_with(|ends| ends.borrow_mut().push(token.clone()));
}
