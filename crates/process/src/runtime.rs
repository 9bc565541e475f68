//! The runtime of [`main`](crate::main): made here, and left here when all that is left of it is a thread that reads
//! standard input.
//!
//! tokio's stdin is a read on a thread of the runtime, that nothing can interrupt: whoever drops the runtime waits
//! until somebody types.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::os::threads::{self, In};

pub(crate) struct OwnRuntime {
    pub(crate) runtime: Runtime,
    threads: Threads,
}

impl OwnRuntime {
    pub(crate) fn new() -> io::Result<OwnRuntime> {
        let threads = Threads::default();
        let (start, stop) = (threads.clone(), threads.clone());
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .on_thread_start(move || start.one_more(threads::this()))
            .on_thread_stop(move || stop.one_less(threads::this()))
            .build()?;
        Ok(OwnRuntime { runtime, threads })
    }

    /// Drops it with all that it runs, and waits for its threads.
    pub(crate) fn end(self) {
        let OwnRuntime { runtime, threads } = self;
        let (tell, told) = channel();
        let _ = std::thread::Builder::new().name("epilogue-end".into()).spawn(move || {
            let _ = tell.send(threads::this());
            drop(runtime);
        });
        // Without a thread it is dropped already.
        let Ok(who_drops) = told.recv() else { return };
        let mut look_after = Duration::from_millis(1);
        let mut seen_before = false;
        while let Err(RecvTimeoutError::Timeout) = told.recv_timeout(look_after) {
            let seen = threads.only_read_stdin() && threads::is_in(who_drops) == Some(In::Futex);
            // Twice: one that has just ended, or woken up, may be seen in what it was in before.
            if seen && seen_before {
                return;
            }
            seen_before = seen;
            look_after = (look_after * 2).min(Duration::from_millis(50));
        }
    }
}

/// The threads of a runtime that have not ended.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<BTreeSet<i32>>>);

impl Threads {
    fn one_more(&self, thread: i32) {
        self.lock().insert(thread);
    }

    fn one_less(&self, thread: i32) {
        self.lock().remove(&thread);
    }

    fn only_read_stdin(&self) -> bool {
        let all = self.lock();
        !all.is_empty() && all.iter().all(|thread| threads::is_in(*thread) == Some(In::ReadOfStdin))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
