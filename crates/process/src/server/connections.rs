//! What a server knows of its connections: how many are open, and what each is busy with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::{Phase, Times};
use crate::state::{ThreadMark, Trigger};

/// Shared by the accept loop, the connections and the drain.
pub(crate) struct Shared {
    times: Times,
    phase: watch::Sender<Phase>,
    open: watch::Sender<usize>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    born: Instant,
    handed_over: AtomicBool,
    /// Microseconds since `born` + 1 of the latest request; 0 for none.
    demand: AtomicU64,
    /// The same, of the latest one while serving.
    demand_serving: AtomicU64,
}

/// One open connection.
pub(crate) struct Connection {
    peer: SocketAddr,
    since: Instant,
    kind: AtomicU8,
    /// How much of [`PREFACE`] has arrived at its beginning; more than all of it for something else.
    preface: AtomicUsize,
    /// Something has arrived that belongs to no request so far.
    half_a_head: AtomicBool,
    /// One of its handlers will never return.
    gave_up: AtomicBool,
    /// Bytes of bodies that were handed over, less those that were written, since it was idle: what is left for sure.
    unsent: AtomicI64,
    /// Whether something has come or gone since somebody asked.
    moved: AtomicBool,
    requests: Mutex<Requests>,
    /// Its client is to be told that it is the last: HTTP/2 has no header for that.
    pub(crate) goes_away: Notify,
    /// A request is whole; nobody who comes later is told.
    pub(crate) asked: Notify,
}

/// How every HTTP/2 connection begins, and no request of HTTP/1.
const PREFACE: &[u8; 4] = b"PRI ";

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
    /// Whatever its handler makes of it.
    Raw,
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
    /// What `sent` counts.
    unit: &'static str,
    since: Instant,
    sent: AtomicU64,
    /// The thread that is running its handler at this moment, or 0.
    running_on: AtomicUsize,
    /// Something has come or gone for it: what has only connected is not in flight.
    counts: AtomicBool,
}

impl Shared {
    pub(crate) fn new(times: Times) -> Shared {
        Shared {
            times,
            phase: watch::Sender::new(Phase::Serving),
            open: watch::Sender::new(0),
            connections: Mutex::default(),
            next: AtomicU64::new(0),
            born: Instant::now(),
            handed_over: AtomicBool::new(false),
            demand: AtomicU64::new(0),
            demand_serving: AtomicU64::new(0),
        }
    }

    pub(crate) fn times(&self) -> &Times {
        &self.times
    }

    /// Returns once the server is in this phase or a later one.
    pub(crate) async fn reached(&self, wanted: Phase) {
        // The sender is `self`: it cannot be gone.
        let _ = self.phase.subscribe().wait_for(|phase| *phase >= wanted).await;
    }

    /// The stop begins, for this reason.
    pub(crate) fn begins_to_leave(&self, address: SocketAddr, why: &Trigger) {
        if why.has_handed_over(address) {
            self.handed_over.store(true, Ordering::Release);
        }
        self.enter(Phase::Leaving);
    }

    /// Whether another process listens at the same address by now.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
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

    /// The connections without an end of their own.
    pub(crate) fn streams(&self) -> Vec<String> {
        let connections = self.connections();
        let streams = connections.values().filter(|connection| connection.kind().is_stream());
        streams.flat_map(|connection| connection.unfinished()).collect()
    }

    /// Stops counting the request whose handler this thread was running when it called `exit`: that handler
    /// never returns. With it goes its connection, unless that has others in flight. Gives the request.
    pub(crate) fn give_up_on(&self, thread: ThreadMark) -> Option<String> {
        let mut connections = self.connections();
        let running = |connection: &Connection| connection.running_on(thread);
        let found = connections.iter().find_map(|(id, connection)| Some((*id, running(connection)?)));
        let (id, request) = found?;
        let connection = Arc::clone(connections.get(&id)?);
        connection.give_up(&request);
        if connection.is_idle() {
            connections.remove(&id);
            self.open.send_modify(|open| *open -= 1);
        }
        Some(request.tell(connection.peer))
    }

    /// Until when the latest connection may wait for its first request, if one that has sent nothing yet was
    /// opened within `patience`.
    pub(crate) fn first_request_until(&self, patience: Duration) -> Option<Instant> {
        let connections = self.connections();
        let silent = connections.values().filter(|connection| connection.has_sent_nothing());
        let latest = silent.map(|connection| connection.since).max()?;
        Some(latest + patience).filter(|until| *until > Instant::now())
    }

    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Admitted {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            peer,
            since: Instant::now(),
            kind: AtomicU8::new(Kind::Unknown as u8),
            preface: AtomicUsize::new(0),
            half_a_head: AtomicBool::new(false),
            gave_up: AtomicBool::new(false),
            unsent: AtomicI64::new(0),
            moved: AtomicBool::new(false),
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

impl Admitted {
    /// It is closed, and what still holds its place is a handler that never returns.
    pub(crate) fn is_closed(&self) {
        if self.connection.gave_up.load(Ordering::Relaxed) {
            self.leave();
        }
    }

    /// It is not counted any more.
    pub(crate) fn leave(&self) {
        let counted = self.shared.connections().remove(&self.id).is_some();
        if counted {
            self.shared.open.send_modify(|open| *open -= 1);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Kind {
    pub(crate) fn is_upgraded(self) -> bool {
        matches!(self, Kind::WebSocket | Kind::Other)
    }

    /// Whether it may have no end of its own.
    fn is_stream(self) -> bool {
        self.is_upgraded() || self == Kind::Raw
    }
}

impl Connection {
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn kind(&self) -> Kind {
        const ALL: [Kind; 6] =
            [Kind::Unknown, Kind::Http1, Kind::Http2, Kind::WebSocket, Kind::Other, Kind::Raw];
        let word = self.kind.load(Ordering::Acquire);
        ALL.into_iter().find(|kind| *kind as u8 == word).unwrap_or(Kind::Unknown)
    }

    pub(crate) fn becomes(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Release);
    }

    /// These bytes have arrived. Only whoever reads the connection says so.
    pub(crate) fn read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // Relaxed: whoever looks does so again later.
        self.moved.store(true, Ordering::Relaxed);
        self.half_a_head.store(true, Ordering::Relaxed);
        let seen = self.preface.load(Ordering::Relaxed);
        if seen >= PREFACE.len() {
            return;
        }
        let more = bytes.len().min(PREFACE.len() - seen);
        let fits = PREFACE[seen..].starts_with(&bytes[..more]);
        self.preface.store(if fits { seen + more } else { PREFACE.len() + 1 }, Ordering::Relaxed);
        if fits && seen + more == PREFACE.len() && self.kind() == Kind::Unknown {
            self.becomes(Kind::Http2);
        }
    }

    /// So many bytes went out.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.moved.store(true, Ordering::Relaxed);
        self.unsent.fetch_sub(i64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }

    /// So many bytes of a body were handed over to be written.
    pub(crate) fn handed_over(&self, bytes: usize) {
        self.unsent.fetch_add(i64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether nothing has come or gone since this was last asked, and nothing is known to be left to send.
    pub(crate) fn is_still(&self) -> bool {
        !self.moved.swap(false, Ordering::Relaxed) && !self.has_unsent()
    }

    fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn has_sent_nothing(&self) -> bool {
        matches!(self.kind(), Kind::Unknown | Kind::Raw) && self.preface.load(Ordering::Relaxed) == 0
    }

    /// Whether the beginning of a request has arrived on it, and no more, of one that answers one at a time.
    pub(crate) fn has_half_a_head(&self) -> bool {
        self.half_a_head.load(Ordering::Relaxed)
            && matches!(self.kind(), Kind::Unknown | Kind::Http1)
            && self.is_idle()
    }

    /// The head of a request is whole.
    pub(crate) fn is_asked(&self) {
        self.half_a_head.store(false, Ordering::Relaxed);
        self.asked.notify_waiters();
    }

    pub(crate) fn begin(&self, line: String) -> Arc<Request> {
        let unit = if self.kind() == Kind::Raw { "bytes written" } else { "bytes of body handed over" };
        let request = Arc::new(Request {
            line,
            unit,
            since: Instant::now(),
            sent: AtomicU64::new(0),
            running_on: AtomicUsize::new(0),
            counts: AtomicBool::new(self.kind() != Kind::Raw),
        });
        let mut requests = self.requests();
        if requests.open.is_empty() {
            self.unsent.store(0, Ordering::Relaxed);
        }
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
        // What came since its head was its body.
        self.half_a_head.store(false, Ordering::Relaxed);
    }

    /// Nobody will answer it.
    fn give_up(&self, request: &Arc<Request>) {
        self.gave_up.store(true, Ordering::Relaxed);
        self.requests().open.retain(|open| !Arc::ptr_eq(open, request));
    }

    /// Whether nothing is in flight on it.
    pub(crate) fn is_idle(&self) -> bool {
        !self.requests().open.iter().any(|request| request.counts())
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
        let requests = self.requests();
        requests
            .open
            .iter()
            .filter(|request| request.counts())
            .map(|request| request.tell(self.peer))
            .collect()
    }

    fn unfinished(&self) -> Vec<String> {
        let requests = self.requests();
        // Of HTTP/2 an answered request is over; its connection may be idle.
        let last = requests
            .answered
            .iter()
            .filter(|_| requests.open.is_empty() && (self.kind() != Kind::Http2 || self.has_unsent()));
        let all = requests.open.iter().filter(|request| request.counts()).chain(last);
        let told: Vec<String> = all.map(|request| request.tell(self.peer)).collect();
        match told.is_empty() {
            true if self.kind() == Kind::Http2 => vec![format!("an idle connection from {}", self.peer)],
            // Nothing has ever come or gone on it.
            true if self.kind() == Kind::Raw => Vec::new(),
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

    /// It is in flight from now on.
    pub(crate) fn begins(&self) {
        self.counts.store(true, Ordering::Relaxed);
    }

    fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn tell(&self, peer: SocketAddr) -> String {
        let age = self.since.elapsed().as_secs_f64();
        let sent = self.sent.load(Ordering::Relaxed);
        format!("{} from {peer}, {age:.1} s old, {sent} {}", self.line, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Admitted {
        Arc::new(Shared::new(Times::default())).admit(([127, 0, 0, 1], 1).into())
    }

    #[test]
    fn http2_is_known_by_its_preface_in_whatever_pieces_it_comes() {
        for pieces in [&[&b"PRI * HTTP/2.0"[..]][..], &[b"P", b"R", b"I", b" "], &[b"PR", b"", b"I * HT"]] {
            let place = connection();
            pieces.iter().for_each(|piece| place.connection.read(piece));
            assert_eq!(place.connection.kind(), Kind::Http2, "{pieces:?}");
        }
        for pieces in [&[&b"PRINT / HTTP/1.1"[..]][..], &[b"P", b"OST"], &[b"x", b"PRI "], &[b"PR", b"PRI "]]
        {
            let place = connection();
            pieces.iter().for_each(|piece| place.connection.read(piece));
            assert_eq!(place.connection.kind(), Kind::Unknown, "{pieces:?}");
            assert!(place.connection.has_half_a_head(), "{pieces:?}");
        }
    }

    #[test]
    fn only_one_that_has_sent_nothing_may_still_send_its_first_request() {
        let place = connection();
        let patience = Duration::from_secs(1);
        assert!(place.shared.first_request_until(patience).is_some());
        assert!(place.shared.first_request_until(Duration::ZERO).is_none(), "it had its time");
        place.connection.read(b"G");
        assert!(place.shared.first_request_until(patience).is_none());
    }
}
