//! The load: clients as they are behind a load balancer, on a thread of their own.
//!
//! Everything is open-loop: a request is sent when its time has come, not when the one before is
//! answered, and it is timed from that intended moment. When the thread cannot keep up it says so,
//! and the row is inconclusive.

mod clients;

pub(crate) use clients::{CONNECT_LIMIT, id_of, numbered};

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::client::Ask;
use crate::outcome::{Counts, Outcome};

/// How much load there is.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    /// Requests to hold in flight.
    pub in_flight: usize,
    /// New connections a second, one request each.
    pub fresh_per_s: u32,
    /// Keep-alive connections.
    pub pool: usize,
    /// Requests a second on each of them.
    pub pool_per_s: u32,
    /// Idle connections in each of the three cohorts.
    pub idle: usize,
    /// Writes a second for the ledger.
    pub writes_per_s: u32,
}

impl Default for LoadSpec {
    fn default() -> LoadSpec {
        LoadSpec { in_flight: 30, fresh_per_s: 50, pool: 10, pool_per_s: 10, idle: 8, writes_per_s: 20 }
    }
}

/// What a row's load asks for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) fast: Ask,
    pub(crate) slow: Option<Ask>,
    pub(crate) upload: Option<Ask>,
    pub(crate) write: Option<Ask>,
    pub(crate) load: LoadSpec,
    /// How long requests keep coming after the trigger.
    pub(crate) lag: Duration,
    /// When a request without an answer counts as hung.
    pub(crate) hang: Duration,
    /// The longest a held request may take.
    pub(crate) hold: Duration,
}

/// What the generator has seen so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) in_flight: Counts,
    pub(crate) idle: Counts,
    pub(crate) arrivals: Counts,
    pub(crate) pool: Counts,
    /// Requests before the trigger that were not answered well.
    pub(crate) baseline_lost: Counts,
    pub(crate) baseline: u32,
    /// The identifiers of acknowledged writes.
    pub(crate) acked: Vec<String>,
    /// Writes of which nobody knows.
    pub(crate) indeterminate: u32,
    /// How late each request was sent, in microseconds.
    pub(crate) lateness_us: Vec<u64>,
    pub(crate) unsent: u32,
    /// Outcomes after the trigger, for the timeline: milliseconds since then.
    pub(crate) timeline: Vec<(i64, Outcome)>,
    /// The local addresses of held requests, and how each was seen to be in flight.
    pub(crate) held: Vec<Held>,
    /// The server closes after each response: there is no idle connection.
    pub(crate) closes_each: bool,
    /// A connection's first answer came only after the trigger: it was never idle.
    pub(crate) never_idle: bool,
}

/// A request that is being held in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) client: SocketAddr,
    pub(crate) begun_answer: bool,
    pub(crate) ended: bool,
    /// What it was answered, once it was.
    pub(crate) status: Option<u16>,
}

/// Where the row is, as the generator needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before the trigger.
    Steady,
    /// Since this moment the program is being ended.
    Ending(Instant),
    /// Give up what is outstanding.
    Over,
}

/// The generator, running on its thread. Dropped, it stops.
pub(crate) struct Generator {
    stage: watch::Sender<Stage>,
    seen: Arc<Mutex<Seen>>,
    in_flight_wanted: usize,
    thread: Option<std::thread::JoinHandle<()>>,
    finished: watch::Receiver<bool>,
}

impl Generator {
    /// Starts the load.
    ///
    /// # Errors
    ///
    /// When there is no thread or no runtime to be had.
    pub(crate) fn start(plan: Plan) -> std::io::Result<Generator> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let in_flight_wanted = plan.load.in_flight;
        let stage = watch::Sender::new(Stage::Steady);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (finish, finished) = watch::channel(false);
        let (theirs, stages) = (Arc::clone(&seen), stage.subscribe());
        let thread = std::thread::Builder::new().name("prove-load".into()).spawn(move || {
            runtime.block_on(clients::run(Arc::new(plan), theirs, stages));
            // Sockets close here, before anybody counts what is left.
            drop(runtime);
            finish.send_replace(true);
        })?;
        Ok(Generator { stage, seen, in_flight_wanted, thread: Some(thread), finished })
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    pub(crate) fn in_flight_wanted(&self) -> usize {
        self.in_flight_wanted
    }

    /// The trigger is pulled now.
    pub(crate) fn ending(&self, at: Instant) {
        self.stage.send_replace(Stage::Ending(at));
    }

    /// Waits until every request has found its end, at most until `limit`; then gives up the rest
    /// and takes what was seen.
    pub(crate) async fn finish(mut self, limit: Duration) -> Seen {
        let _ = tokio::time::timeout(limit, self.finished.wait_for(|done| *done)).await;
        self.stage.send_replace(Stage::Over);
        let _ = self.finished.wait_for(|done| *done).await;
        let mut seen = std::mem::take(&mut *self.seen());
        // Given up: the client still waits for it.
        for _ in seen.held.iter().filter(|held| !held.ended) {
            seen.in_flight.add(Outcome::Hang);
        }
        seen
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stage.send_replace(Stage::Over);
        if let Some(thread) = self.thread.take() {
            // It ends within a timer tick; a panic in it is a bug that the row will show.
            let _ = thread.join();
        }
    }
}

pub(crate) fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
