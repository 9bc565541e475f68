//! The lane's own runtime, made when a job needs it: two threads, so that a cleanup that blocks does
//! not keep the others from running, and may say that it blocks.

use std::cell::Cell;
use std::io;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

use super::job::Job;

/// Runs a job on the lane's own threads.
pub(super) fn send(job: Job) {
    match runtime() {
        Ok(runtime) => drop(runtime.spawn(job.run())),
        Err(error) => {
            crate::os::say(&format!("epilogue: no threads for async cleanups: {error}"));
            job.give_up();
        }
    }
}

/// Whether this is one of the lane's threads.
pub(super) fn is_this() -> bool {
    IS_LANE.get()
}

/// The threads there are cannot be relied on any more: the next job gets new ones.
pub(super) fn replace() {
    let former = LANE_THREADS.lock().unwrap_or_else(PoisonError::into_inner).take();
    leak(former);
}

thread_local!(static IS_LANE: Cell<bool> = const { Cell::new(false) });

static LANE_THREADS: Mutex<Option<(u32, Runtime)>> = Mutex::new(None);

fn runtime() -> io::Result<Handle> {
    let mut threads = LANE_THREADS.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked child has the runtime and not its threads.
    let mine = |(pid, _): &&(u32, Runtime)| *pid == std::process::id();
    if let Some((_, runtime)) = threads.as_ref().filter(mine) {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("epilogue-lane")
        .on_thread_start(|| IS_LANE.set(true))
        .enable_all()
        .build()?;
    let handle = made.handle().clone();
    leak(threads.replace((std::process::id(), made)));
    Ok(handle)
}

/// Dropped, a runtime waits for threads that are not there, or never come back.
fn leak(former: Option<(u32, Runtime)>) {
    #[expect(
        clippy::disallowed_methods,
        reason = "see above; it is of a parent, or of a process that exits"
    )]
    std::mem::forget(former);
}
