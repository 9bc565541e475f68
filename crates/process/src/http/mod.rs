//! A server for axum routers, as a part that stops without losing a request: HTTP/1.1 and HTTP/2 (prior
//! knowledge), WebSocket, server-sent events, gRPC.
//!
//! Servers lose requests when they stop because they close their listener while clients are still
//! being sent to it. [`serve`] goes through these states instead:
//!
//! | state | what it does | left when |
//! |---|---|---|
//! | serving | | the stop begins |
//! | leaving | readiness is 503 and every client is told that its connection is the last, at once (HTTP/1.1: `Connection: close` on every response; HTTP/2: GOAWAY, on later connections after their first response); the listener stays open | no request came for [`quiet`](Serve::quiet), and the [minimum hold](Serve::hold_min) is over; or the [maximum hold](Serve::hold_max) is |
//! | closing | the listener's queue is emptied, then the listener closed; late requests on open connections are still answered; streams are told: WebSockets by a close frame with 1001, event streams by their end | [`idle_linger`](Serve::idle_linger) is over, or no connection is left |
//! | finishing | idle connections are closed; what is in flight goes on; streams that have not ended within their [cap](Serve::stream_cap) are cut | nothing is in flight, or the deadline |
//! | cut | what is left is named in the report and closed | at once |
//!
//! A request that comes during *leaving* is proof that some router does not know yet: that is why
//! the listener waits for quiet, not for a fixed time. Probes are not requests in this sense.
//!
//! A server whose listener was [handed over](crate::App::upgrade) leaves it at once, and what is queued there to
//! the other generation; its readiness stays 200, for that is there under the same address.
//!
//! # Streams
//!
//! A stream without an end of its own would hold the stop until its deadline. An event stream
//! (`text/event-stream`) ends cleanly, and its client reconnects. A WebSocket is sent a close frame between two
//! frames of its own, whatever its handler does; the handler then sees its client close. A gRPC response that
//! streams has until the cap, then ends with status 14, `UNAVAILABLE`, on which clients try again. What else a
//! connection was upgraded to has until the cap as well. More than fifty are told over a second, so that they do
//! not come back as a herd.
//!
//! Half a request head is given two seconds when the server is finishing.
//!
//! A client that sends nothing is never closed while the server serves: put a router in front that does, or a
//! timeout of your own.

mod connection;
mod frames;
mod io;
mod probes;
mod service;

pub use probes::{Probes, probes};

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use crate::error::Error;
use crate::part::{Part, Started};

pub use crate::server::ServerHandle;
use crate::server::connections::Shared;
use crate::server::{SHORTEST_QUIET, Times, accept, stop};

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
    let paths = Paths { readiness: Vec::new(), liveness: Vec::new(), not_demand: vec!["/metrics".into()] };
    let times = Times { stream_cap: Some(Duration::from_secs(5)), ..Times::default() };
    Serve { listener, router, paths, times }
}

/// A server that has not started; see [`serve`].
#[must_use = "a server serves once it is started: app.start(serve(…)).await?"]
pub struct Serve {
    listener: TcpListener,
    router: Router,
    paths: Paths,
    times: Times,
}

/// The paths that are not the router's alone.
#[derive(Clone, Debug)]
struct Paths {
    readiness: Vec<String>,
    liveness: Vec<String>,
    not_demand: Vec<String>,
}

impl Serve {
    /// Answers this path itself: 200 until the stop begins, 503 from then on. Not demand.
    pub fn readiness(mut self, path: impl Into<String>) -> Serve {
        self.paths.readiness.push(path.into());
        self
    }

    /// Answers this path itself with 200 as long as the process lives. Not demand.
    pub fn liveness(mut self, path: impl Into<String>) -> Serve {
        self.paths.liveness.push(path.into());
        self
    }

    /// Requests to this path do not keep the listener open: scrapes, health checks of the
    /// router's own. `/metrics` is one already.
    pub fn not_demand(mut self, path: impl Into<String>) -> Serve {
        self.paths.not_demand.push(path.into());
        self
    }

    /// How long no request may have come before the listener closes: 1 s unless set, and never
    /// below 0.5 s.
    pub fn quiet(mut self, quiet: Duration) -> Serve {
        self.times.quiet = quiet.max(SHORTEST_QUIET);
        self
    }

    /// How long the listener stays open in any case but a [maximum](Serve::hold_max) that is less, and the end of the
    /// budget. Unless set, 5 s where Kubernetes is detected
    /// and 0 elsewhere: at low traffic quiet proves nothing about a router that learns late. Longer where a
    /// registry that was left [says so](crate::StopCx::keep_listening_until).
    /// Skipped when the server is a minute old and no request had come in the last.
    pub fn hold_min(mut self, hold: Duration) -> Serve {
        self.times.hold_min = Some(hold);
        self
    }

    /// How long the listener stays open at most, whatever comes: 10 s or a third of the budget,
    /// whichever is less, unless set, and a [minimum](Serve::hold_min) that is more.
    pub fn hold_max(mut self, hold: Duration) -> Serve {
        self.times.hold_max = Some(hold);
        self
    }

    /// How long open connections are served after the listener has closed: 1 s unless set. It
    /// should be longer than the clients' time between two requests.
    pub fn idle_linger(mut self, linger: Duration) -> Serve {
        self.times.idle_linger = linger;
        self
    }

    /// How long streams without an end of their own (WebSocket, what else a connection was upgraded to, a gRPC
    /// response that streams) have to end once the listener has closed and they were told: 5 s unless set.
    pub fn stream_cap(mut self, cap: Duration) -> Serve {
        self.times.stream_cap = Some(cap);
        self
    }
}

impl Part for Serve {
    type Handle = ServerHandle;

    fn name(&self) -> String {
        self.listener.local_addr().map_or_else(|_| "http".to_owned(), |address| format!("http {address}"))
    }

    async fn start(self) -> Result<Started<ServerHandle>, Error> {
        let Serve { listener, router, paths, times } = self;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(times.within_reason()));
        let paths = Arc::new(paths);
        let begin = move |stream, place| connection::spawn(stream, place, router.clone(), Arc::clone(&paths));
        let accepting = tokio::spawn(accept::accept(listener, Arc::clone(&shared), begin));
        let handle = ServerHandle { shared: Arc::clone(&shared), address };
        let (told, asked) = (Arc::clone(&shared), Arc::clone(&shared));
        Ok(Started::new(handle, async move |cx| stop::drain(&shared, accepting, cx).await)
            .on_stopping_because(move |why| told.begins_to_leave(address, why))
            .status(move || asked.in_flight())
            .hurry_cap(Duration::from_millis(2_500))
            .serving())
    }
}
