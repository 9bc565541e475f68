//! What a server knows of its connections: how many are open, and what each is busy with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Phase, Settings};
use crate::state::ThreadMark;

/// Shared by the accept loop, the connections and the drain.
pub(crate) struct Shared {
    settings: Settings,
    phase: watch::Sender<Phase>,
    open: watch::Sender<usize>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    born: Instant,
    /// Microseconds since `born` + 1 of the latest request; 0 for none.
    demand: AtomicU64,
    /// The same, of the latest one while serving.
    demand_serving: AtomicU64,
}

/// One open connection.
pub(crate) struct Connection {
    peer: SocketAddr,
    request: Mutex<Option<Request>>,
    sent: AtomicU64,
    /// The thread that is running its handler at this moment, or 0.
    running_on: AtomicUsize,
}

struct Request {
    line: String,
    since: Instant,
    /// The response is complete on our side; its last bytes may still be on their way.
    answered: bool,
}

impl Shared {
    pub(crate) fn new(settings: Settings, phase: watch::Sender<Phase>) -> Shared {
        Shared {
            settings,
            phase,
            open: watch::Sender::new(0),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            born: Instant::now(),
            demand: AtomicU64::new(0),
            demand_serving: AtomicU64::new(0),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns once the server is in this phase or a later one.
    pub(crate) async fn reached(&self, wanted: Phase) {
        // The sender is `self`: it cannot be gone.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= wanted).await;
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to `phase`; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    pub(crate) fn note_demand(&self) {
        let at = u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1;
        self.demand.fetch_max(at, Ordering::Relaxed);
        if self.phase() == Phase::Serving {
            self.demand_serving.fetch_max(at, Ordering::Relaxed);
        }
    }

    pub(crate) fn last_demand(&self) -> Option<Instant> {
        self.moment(&self.demand)
    }

    /// The latest request before the stop began.
    pub(crate) fn last_demand_before(&self, began: Instant) -> Option<Instant> {
        self.moment(&self.demand_serving).map(|at| at.min(began))
    }

    fn moment(&self, word: &AtomicU64) -> Option<Instant> {
        let micros = word.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.born + std::time::Duration::from_micros(micros))
    }

    pub(crate) fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Returns when no connection is open.
    pub(crate) async fn none_open(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Who is in flight: request, peer, age, bytes sent.
    pub(crate) fn in_flight(&self) -> Vec<String> {
        self.connections().values().filter_map(|connection| connection.busy_with()).collect()
    }

    /// Who is still there when a server has closed what was idle: in flight, or with a response that
    /// was not sent to its end.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        let connections = self.connections();
        let named = connections.values().map(|connection| {
            connection.last().unwrap_or_else(|| format!("half a request from {}", connection.peer))
        });
        named.collect()
    }

    /// Stops counting the connection whose handler this thread was running when it called `exit`:
    /// that handler never returns. Gives its request.
    pub(crate) fn give_up_on(&self, thread: ThreadMark) -> Option<String> {
        let mut connections = self.connections();
        let running =
            |connection: &Connection| connection.running_on.load(Ordering::Relaxed) == thread.word();
        let id = connections.iter().find(|(_, connection)| running(connection)).map(|(id, _)| *id)?;
        let connection = connections.remove(&id)?;
        self.open.send_modify(|open| *open -= 1);
        connection.busy_with()
    }

    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Admitted {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            peer,
            request: Mutex::default(),
            sent: AtomicU64::new(0),
            running_on: AtomicUsize::new(0),
        });
        self.connections().insert(id, Arc::clone(&connection));
        self.open.send_modify(|open| *open += 1);
        Admitted { shared: Arc::clone(self), connection, id }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the count; given back when dropped.
pub(crate) struct Admitted {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connection: Arc<Connection>,
    id: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let counted = self.shared.connections().remove(&self.id).is_some();
        if counted {
            self.shared.open.send_modify(|open| *open -= 1);
        }
    }
}

impl Connection {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Polls its handler: marked meanwhile, so that a call of `exit` in it can be told apart.
    pub(crate) fn running<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.running_on.store(ThreadMark::here().word(), Ordering::Relaxed);
        let polled = poll();
        self.running_on.store(0, Ordering::Relaxed);
        polled
    }

    pub(crate) fn begin(&self, line: String) {
        self.sent.store(0, Ordering::Relaxed);
        *self.request() = Some(Request { line, since: Instant::now(), answered: false });
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        if let Some(request) = self.request().as_mut() {
            request.answered = true;
        }
    }

    /// Whether a whole request has arrived on it, ever.
    pub(crate) fn has_asked(&self) -> bool {
        self.request().is_some()
    }

    fn busy_with(&self) -> Option<String> {
        if self.request().as_ref()?.answered { None } else { self.last() }
    }

    fn last(&self) -> Option<String> {
        let request = self.request();
        let Request { line, since, .. } = request.as_ref()?;
        let age = since.elapsed().as_secs_f64();
        let sent = self.sent.load(Ordering::Relaxed);
        Some(format!("{line} from {}, {age:.1} s old, {sent} bytes of body handed over", self.peer))
    }

    fn request(&self) -> MutexGuard<'_, Option<Request>> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
