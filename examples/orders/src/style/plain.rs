//! The ordinary way: axum's graceful shutdown, `tokio::signal`, a cancellation token, and `Drop`
//! for what must not stay. A careful engineer's version: signals are handled, the drain is bounded,
//! tasks are awaited, the child is killed, readiness turns.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use epilogue::registry::{Client, Instance, Nacos};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Settings;
use crate::hooks::Hooks;
use crate::lock::Lock;
use crate::spool::Spool;
use crate::store::Store;
use crate::{control, outbox, routes, shipper};

const DRAIN_LIMIT: Duration = Duration::from_secs(25);

/// Runs the service until it is told to stop.
pub async fn main(settings: Settings) -> ExitCode {
    match serve(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<(), Box<dyn Error + Send + Sync>> {
    settings.make_dirs()?;
    let _lock = HeldLock(Lock::acquire(&settings.run.join("orders.lock"))?);
    let store = Store::open(&settings.data.join("orders.db"))?;
    let log = settings.data.join("messages.log");
    let mut shipper =
        shipper::command(&log, &settings.data.join("shipped.log"))?.kill_on_drop(true).spawn()?;
    let stop = CancellationToken::new();
    let outbox = tokio::spawn(outbox::work(store.clone(), log, stop.clone().cancelled_owned()));
    let socket = settings.run.join("control.sock");
    let listener = control::bind(&socket)?;
    let _socket = RemovedOnDrop(socket);
    let control = tokio::spawn(control::serve(listener, stop.clone().cancelled_owned()));

    let hooks = Hooks::default();
    let ready = Arc::new(AtomicBool::new(true));
    let router =
        routes::router(&settings, store.clone(), make_spool, &hooks).merge(probes(Arc::clone(&ready)));
    let listener = TcpListener::bind(("127.0.0.1", settings.port)).await?;
    let draining = CancellationToken::new();
    let registry = register(&settings).await?;
    let told = shutdown_signal(hooks.clone(), ready, draining.clone(), registry);
    let server = axum::serve(listener, router).with_graceful_shutdown(told).into_future();
    tokio::select! {
        served = server => served?,
        () = limit(draining) => eprintln!("orders: requests were still in flight after {DRAIN_LIMIT:?}"),
        () = hooks.panic_main() => panic!("asked to panic in main"),
    }

    stop.cancel();
    outbox.await?;
    control.await?;
    shipper::stop(&mut shipper).await?;
    store.close().await?;
    Ok(())
}

type Registered = Option<Arc<(Nacos, Instance)>>;

const REGISTRY_LIMIT: Duration = Duration::from_secs(2);

/// Registers this instance, and keeps it alive until the runtime ends.
async fn register(settings: &Settings) -> Result<Registered, Box<dyn Error + Send + Sync>> {
    let Some(registered) = crate::registry::of(settings)?.map(Arc::new) else { return Ok(None) };
    let first = Arc::clone(&registered);
    tokio::task::spawn_blocking(move || first.0.register(&first.1, REGISTRY_LIMIT)).await??;
    let beats = Arc::clone(&registered);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(beats.0.interval()).await;
            let its = Arc::clone(&beats);
            let beaten = tokio::task::spawn_blocking(move || its.0.beat(&its.1, REGISTRY_LIMIT)).await;
            if let Ok(Err(error)) = beaten {
                eprintln!("orders: registry: {error}");
            }
        }
    });
    Ok(Some(registered))
}

/// At once, before the listener closes.
async fn deregister(registered: Registered) {
    let Some(registered) = registered else { return };
    let left =
        tokio::task::spawn_blocking(move || registered.0.deregister(&registered.1, REGISTRY_LIMIT)).await;
    if let Ok(Err(error)) = left {
        eprintln!("orders: registry: {error}");
    }
}

async fn shutdown_signal(
    hooks: Hooks,
    ready: Arc<AtomicBool>,
    draining: CancellationToken,
    registered: Registered,
) {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(error) => {
                eprintln!("orders: no SIGTERM handler: {error}");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
        () = hooks.stop() => {}
    }
    ready.store(false, Ordering::Relaxed);
    deregister(registered).await;
    draining.cancel();
}

async fn limit(draining: CancellationToken) {
    draining.cancelled().await;
    tokio::time::sleep(DRAIN_LIMIT).await;
}

fn probes(ready: Arc<AtomicBool>) -> Router {
    let readiness = async move || {
        if ready.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    };
    Router::new().route("/ready", get(readiness)).route("/live", get(async || StatusCode::OK))
}

struct HeldLock(Lock);

impl Drop for HeldLock {
    fn drop(&mut self) {
        if let Err(error) = self.0.release() {
            eprintln!("orders: lock file: {error}");
        }
    }
}

struct RemovedOnDrop(PathBuf);

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("orders: {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the other style can fail")]
fn make_spool(path: PathBuf) -> io::Result<Box<dyn Spool>> {
    Ok(Box::new(RemovedOnDrop(path)))
}

impl Spool for RemovedOnDrop {
    fn path(&self) -> &Path {
        &self.0
    }

    fn keep(self: Box<Self>, to: &Path) -> io::Result<()> {
        // The drop that follows finds nothing to remove.
        std::fs::rename(&self.0, to)
    }
}
