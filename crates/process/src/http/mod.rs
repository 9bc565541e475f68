//! An HTTP/1.1 server for axum routers, as a part that stops without losing a request.
//!
//! Servers lose requests when they stop because they close their listener while clients are still
//! being sent to it. [`serve`] goes through these states instead:
//!
//! | state | what it does | left when |
//! |---|---|---|
//! | serving | | the stop begins |
//! | leaving | readiness is 503 and every response says `Connection: close`, at once; the listener stays open | no request came for [`quiet`](Serve::quiet), and the [minimum hold](Serve::hold_min) is over; or the [maximum hold](Serve::hold_max) is |
//! | closing | the listener's queue is emptied, then the listener closed; late requests on open connections are still answered | [`idle_linger`](Serve::idle_linger) is over, or no connection is left |
//! | finishing | idle connections are closed; what is in flight goes on | nothing is in flight, or the deadline |
//! | cut | what is left is named in the report and closed | at once |
//!
//! A request that comes during *leaving* is proof that some router does not know yet: that is why
//! the listener waits for quiet, not for a fixed time. Probes are not requests in this sense.
//!
//! An event stream (`text/event-stream`) is ended cleanly when the server is finishing: it has no end
//! of its own. Half a request head is given two seconds then.
//!
//! HTTP/2, WebSocket and gRPC are not served yet. A client that sends nothing is never closed while
//! the server serves: put a router in front that does, or a timeout of your own.

mod connection;
mod connections;
mod drain;
mod service;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::Error;
use crate::escalation::Level;
use crate::part::{Part, Started};
use crate::state::StopCx;

use connections::Shared;
use drain::{Leaving, Verdict};

/// Serves `router` on `listener` until the program stops.
///
/// # Examples
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use epilogue_process::{App, http, run};
/// use std::process::ExitCode;
///
/// #[tokio::main]
/// async fn main() -> ExitCode {
///     run(async |app: &App| {
///         let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
///         let router = Router::new().route("/", get(|| async { "hello" }));
///         app.start(http::serve(listener, router).readiness("/ready")).await?;
///         Ok(())
///     })
///     .await
/// }
/// ```
pub fn serve(listener: TcpListener, router: Router) -> Serve {
    Serve { listener, router, settings: Settings::default() }
}

/// A server that has not started; see [`serve`].
#[must_use = "a server serves once it is started: app.start(serve(…)).await?"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    settings: Settings,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) readiness: Vec<String>,
    pub(crate) liveness: Vec<String>,
    pub(crate) not_demand: Vec<String>,
    pub(crate) quiet: Duration,
    pub(crate) hold_min: Option<Duration>,
    pub(crate) hold_max: Option<Duration>,
    pub(crate) idle_linger: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            readiness: Vec::new(),
            liveness: Vec::new(),
            not_demand: vec!["/metrics".into()],
            quiet: Duration::from_secs(1),
            hold_min: None,
            hold_max: None,
            idle_linger: Duration::from_secs(1),
        }
    }
}

impl Serve {
    /// Answers this path itself: 200 until the stop begins, 503 from then on. Not demand.
    pub fn readiness(mut self, path: impl Into<String>) -> Serve {
        self.settings.readiness.push(path.into());
        self
    }

    /// Answers this path itself with 200 as long as the process lives. Not demand.
    pub fn liveness(mut self, path: impl Into<String>) -> Serve {
        self.settings.liveness.push(path.into());
        self
    }

    /// Requests to this path do not keep the listener open: scrapes, health checks of the
    /// router's own. `/metrics` is one already.
    pub fn not_demand(mut self, path: impl Into<String>) -> Serve {
        self.settings.not_demand.push(path.into());
        self
    }

    /// How long no request may have come before the listener closes: 1 s unless set, and never
    /// below 0.5 s.
    pub fn quiet(mut self, quiet: Duration) -> Serve {
        self.settings.quiet = quiet.max(Duration::from_millis(500));
        self
    }

    /// How long the listener stays open in any case. Unless set, 5 s where Kubernetes is detected
    /// and 0 elsewhere: at low traffic quiet proves nothing about a router that learns late.
    /// Skipped when no request had come in the minute before the stop.
    pub fn hold_min(mut self, hold: Duration) -> Serve {
        self.settings.hold_min = Some(hold);
        self
    }

    /// How long the listener stays open at most, whatever comes: 10 s or a third of the budget,
    /// whichever is less, unless set.
    pub fn hold_max(mut self, hold: Duration) -> Serve {
        self.settings.hold_max = Some(hold);
        self
    }

    /// How long open connections are served after the listener has closed: 1 s unless set. It
    /// should be longer than the clients' time between two requests.
    pub fn idle_linger(mut self, linger: Duration) -> Serve {
        self.settings.idle_linger = linger;
        self
    }
}

/// What a started server is used by.
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl ServerHandle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.open()
    }

    /// How many requests are in flight: read, and their response not yet complete on this side.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight().len()
    }
}

/// The states of a server, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Leaving,
    Closing,
    Finishing,
    Cut,
}

impl Part for Serve {
    type Handle = ServerHandle;

    fn name(&self) -> String {
        self.listener.local_addr().map_or_else(|_| "http".to_owned(), |address| format!("http {address}"))
    }

    async fn start(self) -> Result<Started<ServerHandle>, Error> {
        let Serve { listener, router, settings } = self;
        let address = listener.local_addr()?;
        let phase = watch::Sender::new(Phase::Serving);
        let shared = Arc::new(Shared::new(settings, phase));
        let accepting = tokio::spawn(accept(listener, router, Arc::clone(&shared)));
        let handle = ServerHandle { shared: Arc::clone(&shared), address };
        let (told, asked) = (Arc::clone(&shared), Arc::clone(&shared));
        Ok(Started::new(handle, async move |cx| drain(&shared, accepting, cx).await)
            .on_stopping(move || told.enter(Phase::Leaving))
            .status(move || asked.in_flight())
            .hurry_cap(Duration::from_millis(2_500))
            .serving())
    }
}

/// Accepts until the server is closing. Returns how many were still queued then.
async fn accept(listener: TcpListener, router: Router, shared: Arc<Shared>) -> usize {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => connection::spawn(&shared, &router, stream, peer),
                Err(error) => rest(&error).await,
            },
            () = shared.reached(Phase::Closing) => break,
        }
    }
    empty_queue(listener, &router, &shared).unwrap_or_else(|error| {
        crate::os::say(&format!("epilogue: http: closing the listener: {error}"));
        0
    })
}

/// Accepts what the kernel has queued, then closes: a plain close resets every queued connection.
fn empty_queue(listener: TcpListener, router: &Router, shared: &Arc<Shared>) -> io::Result<usize> {
    let listener = listener.into_std()?;
    let mut queued = 0;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                connection::spawn(shared, router, tokio::net::TcpStream::from_std(stream)?, peer);
                queued += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(queued),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// After an error of `accept`: out of descriptors or memory passes when a connection ends, so the
/// loop waits a little instead of spinning.
async fn rest(error: &io::Error) {
    if !is_of_one_connection(error) {
        crate::os::say(&format!("epilogue: http: accept: {error}; trying again in 100 ms"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn drain(shared: &Arc<Shared>, accepting: JoinHandle<usize>, mut cx: StopCx) -> Result<(), Error> {
    give_up_on_exit(shared, &cx);
    let in_flight = shared.in_flight().len();
    // Kept back for closing what is cut, and for saying so.
    let deadline = cx.deadline() - (cx.remaining() / 20).min(Duration::from_millis(200));

    shared.enter(Phase::Leaving);
    let left_at = cx.began();
    let leaving = leaving(shared, &cx, left_at);
    leave(shared, &mut cx, &leaving, deadline).await;
    let held = Instant::now().saturating_duration_since(left_at);

    shared.enter(Phase::Closing);
    let queued = accepting.await.unwrap_or_else(|error| {
        cx.note(format!("the accept loop had ended: {error}"));
        0
    });
    // Idle connections of a server that nobody asked for a while are not worth a second.
    if queued > 0 || !leaving.nobody_came(shared.last_demand()) {
        linger(shared, &mut cx, deadline).await;
    }

    shared.enter(Phase::Finishing);
    let finish_by = if cx.level() >= Level::Hurry {
        deadline.min(Instant::now() + Duration::from_secs(2))
    } else {
        deadline
    };
    finish(shared, &mut cx, finish_by).await;

    let cut = shared.unfinished();
    shared.enter(Phase::Cut);
    for request in &cut {
        cx.abandon(request.clone());
    }
    // A handler that blocks its thread cannot be cut: it is named, not waited for.
    let _ = tokio::time::timeout_at(deadline + (cx.deadline() - deadline) / 2, shared.none_open()).await;
    cx.note(format!(
        "listener open {:.1} s longer; {in_flight} in flight then, {} cut",
        held.as_secs_f64(),
        cut.len()
    ));
    Ok(())
}

/// The handler that called `exit` never returns: its connection is not waited for.
fn give_up_on_exit(shared: &Shared, cx: &StopCx) {
    if let Some(request) = cx.exit_thread().and_then(|thread| shared.give_up_on(thread)) {
        cx.note(format!("exit was called by {request}"));
    }
}

fn leaving(shared: &Shared, cx: &StopCx, began: Instant) -> Leaving {
    let settings = shared.settings();
    Leaving {
        began,
        quiet: settings.quiet,
        hold_min: settings.hold_min.unwrap_or_else(default_hold_min),
        hold_max: settings.hold_max.unwrap_or_else(|| Duration::from_secs(10).min(cx.budget() / 3)),
        demand_before: shared.last_demand_before(began),
    }
}

async fn leave(shared: &Shared, cx: &mut StopCx, leaving: &Leaving, deadline: Instant) {
    loop {
        let now = Instant::now();
        if now >= deadline || cx.level() >= Level::Hurry {
            return;
        }
        match leaving.at(now, shared.last_demand(), cx.skip_idle_waits()) {
            Verdict::Close => return,
            Verdict::Wait(until) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until.min(deadline)) => {}
                    () = cx.changed() => {}
                }
            }
        }
    }
}

async fn linger(shared: &Shared, cx: &mut StopCx, deadline: Instant) {
    let until = deadline.min(Instant::now() + shared.settings().idle_linger);
    while !cx.skip_idle_waits() {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = shared.none_open() => return,
            () = cx.changed() => give_up_on_exit(shared, cx),
        }
    }
}

async fn finish(shared: &Shared, cx: &mut StopCx, until: Instant) {
    let mut until = until;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = shared.none_open() => return,
            () = cx.changed() => {
                give_up_on_exit(shared, cx);
                if cx.level() >= Level::Hurry {
                    until = until.min(Instant::now() + Duration::from_secs(2));
                }
            }
        }
    }
}

fn default_hold_min() -> Duration {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Duration::from_secs(5)
    } else {
        Duration::ZERO
    }
}
