//! Probes on a port of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Serve, serve};
use crate::app::App;
use crate::error::Error;
use crate::inherited::is_taking_over;
use crate::part::{Part, Started, Stop};
use crate::server::Times;
use crate::state::{StopCx, Trigger};

/// Answers the probes of a platform, from the first start to the last stop: start it first, so that it stops last.
///
/// | path | 200 | 503 |
/// |---|---|---|
/// | `/startup` | once everything has [started](App::ready) | before |
/// | `/ready` | once everything has started | before, and from the moment the stop begins, unless the listeners were [handed over](App::upgrade) |
/// | `/live` | always | never: a program that stops in order is not to be killed for it |
///
/// In an [upgrade](App::upgrade) the address serves throughout: a generation that starts while the one before still
/// serves answers 200 from the first. Take the listener from [`App::listener`] then. From the moment the stop begins
/// every answer says `Connection: close`, so that a client that keeps its connection comes back to whoever serves then.
///
/// A server that answers these paths itself ([`readiness`](crate::http::Serve::readiness)) needs none of this; a
/// program without one, or with probes on another port, does.
///
/// # Examples
///
/// ```no_run
/// # use epilogue_process::{App, Error, http};
/// # async fn body(app: &App) -> Result<(), Error> {
/// let listener = tokio::net::TcpListener::bind("0.0.0.0:8081").await?;
/// app.start(http::probes(app, listener)).await?;
/// # Ok(()) }
/// ```
pub fn probes(app: &App, listener: TcpListener) -> Probes {
    Probes { app: app.clone(), listener }
}

/// Probes that have not started; see [`probes`].
#[must_use = "nobody answers until they are started: app.start(probes(…)).await?"]
pub struct Probes {
    app: App,
    listener: TcpListener,
}

impl Part for Probes {
    type Handle = SocketAddr;

    fn name(&self) -> String {
        "probes".to_owned()
    }

    async fn start(self) -> Result<Started<SocketAddr>, Error> {
        let Probes { app, listener } = self;
        let address = listener.local_addr()?;
        let started = app.clone();
        let router = Router::new()
            .route(
                "/startup",
                get(move || {
                    std::future::ready(answer(
                        started.is_ready() || is_taking_over(),
                        "started\n",
                        "starting\n",
                    ))
                }),
            )
            .route("/ready", get(move || std::future::ready(ready(&app))))
            .route("/live", get(|| std::future::ready("alive\n")));
        // Clients are told that their connection is the last as soon as the stop begins; nothing waits for them.
        let times = Times {
            quiet: Duration::ZERO,
            hold_min: Some(Duration::ZERO),
            hold_max: Some(Duration::ZERO),
            idle_linger: Duration::from_millis(100),
            ..Times::default()
        };
        let server = Serve { times, ..serve(listener, router) };
        let Started { stop, .. } = server.start().await?;
        let drain = stop.run;
        let Started { stop: quick, .. } = Started::new((), async move |cx: StopCx| {
            // What it has to say is of no account, nor is a client that keeps it waiting.
            let in_silence = StopCx { word: Arc::default(), ..cx };
            let _ = tokio::time::timeout(Duration::from_millis(300), drain(in_silence)).await;
            Ok(())
        });
        Ok(Started { handle: address, stop: Stop { notice: stop.notice, ..quick } })
    }
}

fn ready(app: &App) -> (StatusCode, &'static str) {
    let state = app.inner.control.now();
    match state.begun {
        Some((Trigger::HandedOver { .. }, _)) => answer(true, "handed over\n", ""),
        Some(_) => answer(false, "", "stopping\n"),
        None => answer(app.is_ready() || is_taking_over(), "ready\n", "starting\n"),
    }
}

fn answer(good: bool, yes: &'static str, no: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) }
}
