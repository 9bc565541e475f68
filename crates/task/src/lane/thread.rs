//! The lane's own thread, started when a job needs it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::job::Job;

/// Sends a job to the thread; starts that if need be.
pub(super) fn send(job: Job) {
    let mut lane = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked child has the sender and not the thread.
    let mut unsent = match &*lane {
        Some((pid, sender)) if *pid == std::process::id() => match sender.send(job) {
            Ok(()) => return,
            Err(closed) => closed.0,
        },
        _ => job,
    };
    for attempt in 0..2 {
        let (sender, jobs) = mpsc::unbounded_channel();
        match std::thread::Builder::new().name("epilogue-lane".into()).spawn(move || drive(jobs)) {
            Ok(_) => {
                if let Err(closed) = sender.send(unsent) {
                    unsent = closed.0;
                    continue;
                }
                *lane = Some((std::process::id(), sender));
                return;
            }
            Err(error) if attempt == 1 => {
                crate::os::say(&format!("epilogue: no thread for async cleanups: {error}"));
            }
            Err(_) => std::thread::yield_now(),
        }
    }
    drop(lane);
    unsent.give_up();
}

static THREAD: Mutex<Option<(u32, mpsc::UnboundedSender<Job>)>> = Mutex::new(None);

fn drive(mut jobs: mpsc::UnboundedReceiver<Job>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::os::say(&format!("epilogue: no runtime for async cleanups: {error}")),
    };
    runtime.block_on(async {
        while let Some(job) = jobs.recv().await {
            tokio::spawn(job.run());
        }
    });
}
