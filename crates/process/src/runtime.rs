//! The runtime of [`main`](crate::main): made here, and left here when all that is left of it are threads that read
//! standard input.
//!
//! tokio's stdin is a read on a thread of the runtime, that nothing can interrupt: whoever drops the runtime waits
//! until somebody types.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::os::threads::{self, In};

pub(crate) struct OwnRuntime {
    pub(crate) runtime: Runtime,
    threads: Threads,
    /// Those that poll tasks: whatever one of them reads, a task is around it.
    workers: BTreeSet<i32>,
}

/// How it went that a runtime was left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Dropped,
    /// Somebody still reads standard input.
    Reading,
}

impl OwnRuntime {
    pub(crate) fn new() -> io::Result<OwnRuntime> {
        let threads = Threads::default();
        let start = threads.clone();
        let builder = &mut Builder::new_multi_thread();
        let runtime =
            builder.enable_all().on_thread_start(move || start.one_more(threads::this())).build()?;
        // Its workers are its first threads, and begin at once.
        while threads.lock().begun < runtime.metrics().num_workers() {
            std::thread::yield_now();
        }
        let workers = threads.lock().alive.clone();
        Ok(OwnRuntime { runtime, threads, workers })
    }

    /// Drops it with all that it runs, and waits for its threads.
    pub(crate) fn end(self) -> Left {
        let OwnRuntime { runtime, threads, workers } = self;
        let (tell, told) = channel();
        let _ = std::thread::Builder::new().name("epilogue-end".into()).spawn(move || {
            let _ = tell.send(threads::this());
            drop(runtime);
        });
        // Without a thread it is dropped already.
        let Ok(who_drops) = told.recv() else { return Left::Dropped };
        let mut look_after = Duration::from_millis(1);
        let mut since = None;
        while let Err(RecvTimeoutError::Timeout) = told.recv_timeout(look_after) {
            let only_reads =
                threads::is_in(who_drops) == Some(In::Futex) && threads.only_read_stdin(&workers);
            since = only_reads.then(|| since.unwrap_or_else(Instant::now));
            if since.is_some_and(|since| since.elapsed() >= FOR_CERTAIN) {
                return Left::Reading;
            }
            look_after = (look_after * 2).min(Duration::from_millis(20));
        }
        Left::Dropped
    }
}

/// So long all that is left must have been seen to read. One whose other end is gone as well, as by one Ctrl-C for all
/// of a pipe, sees the end of its input, and does what it does then.
const FOR_CERTAIN: Duration = Duration::from_millis(200);

/// The threads of a runtime. Those that have ended are looked for now and then: they are still there while what they
/// keep for themselves is dropped.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    alive: BTreeSet<i32>,
    begun: usize,
}

impl Threads {
    fn one_more(&self, thread: i32) {
        let mut all = self.lock();
        all.begun += 1;
        all.alive.insert(thread);
        if all.alive.len().is_power_of_two() && all.alive.len() > 32 {
            all.alive.retain(|thread| threads::is_there(*thread));
        }
    }

    fn only_read_stdin(&self, workers: &BTreeSet<i32>) -> bool {
        let alive = &mut self.lock().alive;
        alive.retain(|thread| threads::is_there(*thread));
        let reads =
            |thread: &i32| !workers.contains(thread) && threads::is_in(*thread) == Some(In::ReadOfStdin);
        !alive.is_empty() && alive.iter().all(reads)
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
