//! What everybody knows of the lane: the jobs, and who drives them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Adopted;
use crate::shared::Shared;

/// The lane of this process.
pub(super) static LANE: Lane = Lane { state: Mutex::new(State::new()), changed: Condvar::new() };

pub(super) struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What each job has still to pay: to be waited for, to name it if that cannot be done, and to be paid
    /// by somebody else.
    jobs: Vec<(u64, Arc<Shared>)>,
    next: u64,
    drivers: Vec<(u64, Handle)>,
    exit_limit: Duration,
    waited_for: bool,
    /// Made with the first waiter.
    waiters: Option<Arc<watch::Sender<usize>>>,
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// A scope that is alive: it may still come to the lane.
pub(crate) struct Alive(());

impl Alive {
    #[inline]
    pub(crate) fn new() -> Alive {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Alive(())
    }
}

impl Drop for Alive {
    #[inline]
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

fn alive() -> usize {
    ALIVE.load(Ordering::Relaxed)
}

/// A job that was not finished when somebody asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfinished {
    /// Where the cleanups were registered that have not begun, in the order they would run in. The
    /// one that is running is not among them.
    pub left: Vec<String>,
}

/// What the lane has not finished.
pub fn unfinished() -> Vec<Unfinished> {
    LANE.all().into_iter().map(|(_, shared)| Unfinished { left: shared.places() }).collect()
}

impl State {
    const fn new() -> State {
        State {
            jobs: Vec::new(),
            next: 0,
            drivers: Vec::new(),
            exit_limit: Duration::from_secs(10),
            waited_for: false,
            waiters: None,
        }
    }
}

/// Tells whoever waits. Without the lock: a waker may run anything, and drop a scope in it.
fn tell(waiters: Option<Arc<watch::Sender<usize>>>, jobs: usize) {
    if let Some(waiters) = waiters {
        waiters.send_replace(jobs);
    }
}

impl Lane {
    /// One more job.
    pub(super) fn begin(&self, shared: &Arc<Shared>) -> u64 {
        let (id, waiters, jobs) = {
            let mut state = self.lock();
            state.next += 1;
            let id = state.next;
            state.jobs.push((id, Arc::clone(shared)));
            (id, state.waiters.clone(), state.jobs.len())
        };
        tell(waiters, jobs);
        id
    }

    /// A job has come to its end, or somebody else has it.
    pub(super) fn end(&self, id: u64) {
        let (ended, waiters, jobs) = {
            let mut state = self.lock();
            let at = state.jobs.iter().position(|(job, _)| *job == id);
            let ended = at.map(|at| state.jobs.swap_remove(at));
            (ended, state.waiters.clone(), state.jobs.len())
        };
        drop(ended);
        tell(waiters, jobs);
        self.changed.notify_all();
    }

    pub(super) fn jobs(&self) -> usize {
        self.lock().jobs.len()
    }

    pub(super) async fn drained(&self) {
        let mut jobs = {
            let mut state = self.lock();
            let now = state.jobs.len();
            state.waiters.get_or_insert_with(|| Arc::new(watch::Sender::new(now))).subscribe()
        };
        // The sender lives as long as the process.
        let _ = jobs.wait_for(|jobs| *jobs == 0).await;
    }

    pub(super) fn wait(&self, limit: Duration) -> bool {
        self.wait_but_for(0, limit)
    }

    /// Waits until no more than so many jobs are left, which never come to their end.
    pub(super) fn wait_but_for(&self, stuck: usize, limit: Duration) -> bool {
        // Further than a clock goes is for ever.
        let until = Instant::now().checked_add(limit);
        let mut state = self.lock();
        while state.jobs.len() > stuck {
            let left = until.map_or(limit, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What is not finished, to be paid by somebody else as well.
    pub(super) fn all(&self) -> Vec<(u64, Arc<Shared>)> {
        self.lock().jobs.clone()
    }

    /// Nobody but the lane's own runtime gets a job from now on.
    pub(super) fn release_all(&self) {
        let released = std::mem::take(&mut self.lock().drivers);
        drop(released);
    }

    /// Waits until no scope is alive, or the limit is over.
    pub(super) fn wait_for_late(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        while alive() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // Nobody tells when a scope ends that owes nothing, so look again now and then.
            let soon = left.min(Duration::from_millis(2));
            state = self.changed.wait_timeout(state, soon).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(super) fn driver(&self) -> Option<Handle> {
        self.lock().drivers.last().map(|(_, handle)| handle.clone())
    }

    pub(super) fn adopt(&self, runtime: Handle) -> Adopted {
        let mut state = self.lock();
        state.next += 1;
        let id = state.next;
        state.drivers.push((id, runtime));
        Adopted(id)
    }

    pub(super) fn release(&self, id: u64) {
        let released = {
            let mut state = self.lock();
            let at = state.drivers.iter().position(|(driver, _)| *driver == id);
            at.map(|at| state.drivers.remove(at))
        };
        drop(released);
    }

    pub(super) fn set_exit_limit(&self, limit: Duration) {
        self.lock().exit_limit = limit;
    }

    pub(super) fn set_waited_for(&self, elsewhere: bool) {
        self.lock().waited_for = elsewhere;
    }

    /// How long an exiting process waits; `None` when somebody else does.
    pub(super) fn exit_limit(&self) -> Option<Duration> {
        let state = self.lock();
        (!state.waited_for).then_some(state.exit_limit)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
