//! What a server knows of its connections: how many are open, and what each is busy with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
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
    kind: AtomicU8,
    /// Something has arrived on it, ever.
    heard: AtomicBool,
    requests: Mutex<Requests>,
    /// Its client is to be told that it is the last: HTTP/2 has no header for that.
    pub(crate) goes_away: Notify,
    /// A first request is whole.
    pub(crate) asked: Notify,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Unknown,
    Http1,
    Http2,
    WebSocket,
    /// Upgraded to something that nobody here knows.
    Other,
}

#[derive(Default)]
struct Requests {
    /// Begun, and their response is not complete on our side.
    open: Vec<Arc<Request>>,
    /// Of a connection that answers one after the other: its last bytes may still be on their way.
    answered: Option<Arc<Request>>,
}

/// A request, until its response is complete.
pub(crate) struct Request {
    line: String,
    since: Instant,
    sent: AtomicU64,
    /// The thread that is running its handler at this moment, or 0.
    running_on: AtomicUsize,
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

    /// When it began to listen.
    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    fn moment(&self, word: &AtomicU64) -> Option<Instant> {
        let micros = word.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.born + Duration::from_micros(micros))
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
        self.connections().values().flat_map(|connection| connection.in_flight()).collect()
    }

    /// Who is still there when a server has closed what was idle: in flight, or with a response that
    /// was not sent to its end.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        self.connections().values().flat_map(|connection| connection.unfinished()).collect()
    }

    /// The connections that have become something else than HTTP.
    pub(crate) fn upgraded(&self) -> Vec<String> {
        let connections = self.connections();
        let upgraded = connections.values().filter(|connection| connection.kind().is_upgraded());
        upgraded.flat_map(|connection| connection.unfinished()).collect()
    }

    /// Stops counting the connection whose handler this thread was running when it called `exit`:
    /// that handler never returns. Gives its request.
    pub(crate) fn give_up_on(&self, thread: ThreadMark) -> Option<String> {
        let mut connections = self.connections();
        let running = |connection: &Connection| connection.running_on(thread);
        let found = connections.iter().find_map(|(id, connection)| Some((*id, running(connection)?)));
        let (id, request) = found?;
        let connection = connections.remove(&id)?;
        self.open.send_modify(|open| *open -= 1);
        Some(request.tell(connection.peer))
    }

    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Admitted {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            peer,
            kind: AtomicU8::new(Kind::Unknown as u8),
            heard: AtomicBool::new(false),
            requests: Mutex::default(),
            goes_away: Notify::new(),
            asked: Notify::new(),
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

/// Clients that are told to go away come back at once, somewhere else: many are told over so long.
const SPREAD: Duration = Duration::from_secs(1);
/// So many at once are no herd.
const HERD: usize = 50;

impl Admitted {
    /// Returns when a stream without an end of its own is to be told that the server goes away.
    pub(crate) async fn its_turn_to_be_told(self: Arc<Self>) {
        self.shared.reached(Phase::Closing).await;
        if self.shared.open() > HERD {
            // Evenly, whatever comes next to each other.
            let part = self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
            tokio::time::sleep(SPREAD * u32::try_from(part).unwrap_or(0) / 1024).await;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let counted = self.shared.connections().remove(&self.id).is_some();
        if counted {
            self.shared.open.send_modify(|open| *open -= 1);
        }
    }
}

impl Kind {
    pub(crate) fn is_upgraded(self) -> bool {
        matches!(self, Kind::WebSocket | Kind::Other)
    }
}

impl Connection {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn kind(&self) -> Kind {
        const ALL: [Kind; 5] = [Kind::Unknown, Kind::Http1, Kind::Http2, Kind::WebSocket, Kind::Other];
        let word = self.kind.load(Ordering::Acquire);
        ALL.into_iter().find(|kind| *kind as u8 == word).unwrap_or(Kind::Unknown)
    }

    pub(crate) fn becomes(&self, kind: Kind) {
        if self.kind.swap(kind as u8, Ordering::AcqRel) == Kind::Unknown as u8 {
            self.asked.notify_one();
        }
    }

    /// These bytes have arrived.
    pub(crate) fn read(&self, bytes: &[u8]) {
        // Relaxed: whoever looks does so again later.
        if bytes.is_empty() || self.heard.load(Ordering::Relaxed) {
            return;
        }
        self.heard.store(true, Ordering::Relaxed);
        // How every HTTP/2 connection begins, and no request of HTTP/1.
        if bytes.starts_with(b"PRI ") {
            self.becomes(Kind::Http2);
        }
    }

    /// Whether the beginning of a first request has arrived on it, and no more.
    pub(crate) fn has_half_a_head(&self) -> bool {
        self.heard.load(Ordering::Relaxed) && self.kind() == Kind::Unknown
    }

    pub(crate) fn begin(&self, line: String) -> Arc<Request> {
        let request = Arc::new(Request {
            line,
            since: Instant::now(),
            sent: AtomicU64::new(0),
            running_on: AtomicUsize::new(0),
        });
        let mut requests = self.requests();
        requests.answered = None;
        requests.open.push(Arc::clone(&request));
        request
    }

    /// Its response is complete on our side. One that has turned the connection into something else never is.
    pub(crate) fn end(&self, request: &Arc<Request>) {
        let mut requests = self.requests();
        let Some(at) = requests.open.iter().position(|open| Arc::ptr_eq(open, request)) else { return };
        let ended = requests.open.swap_remove(at);
        requests.answered = Some(ended);
    }

    /// Whether nothing is in flight on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests().open.is_empty()
    }

    fn running_on(&self, thread: ThreadMark) -> Option<Arc<Request>> {
        let running = |request: &&Arc<Request>| request.running_on.load(Ordering::Relaxed) == thread.word();
        self.requests().open.iter().find(running).cloned()
    }

    fn in_flight(&self) -> Vec<String> {
        // What it has become is no request.
        if self.kind().is_upgraded() {
            return Vec::new();
        }
        self.requests().open.iter().map(|request| request.tell(self.peer)).collect()
    }

    fn unfinished(&self) -> Vec<String> {
        let requests = self.requests();
        // Of HTTP/2 an answered request is over; its connection may be idle.
        let last =
            requests.answered.iter().filter(|_| requests.open.is_empty() && self.kind() != Kind::Http2);
        let all = requests.open.iter().chain(last);
        let told: Vec<String> = all.map(|request| request.tell(self.peer)).collect();
        match told.is_empty() {
            true if self.kind() == Kind::Http2 => vec![format!("an idle connection from {}", self.peer)],
            true => vec![format!("half a request from {}", self.peer)],
            false => told,
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    /// Polls its handler: marked meanwhile, so that a call of `exit` in it can be told apart.
    pub(crate) fn running<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.running_on.store(ThreadMark::here().word(), Ordering::Relaxed);
        let polled = poll();
        self.running_on.store(0, Ordering::Relaxed);
        polled
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn tell(&self, peer: SocketAddr) -> String {
        let age = self.since.elapsed().as_secs_f64();
        let sent = self.sent.load(Ordering::Relaxed);
        format!("{} from {peer}, {age:.1} s old, {sent} bytes of body handed over", self.line)
    }
}
