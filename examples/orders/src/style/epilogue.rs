//! The same service on Epilogue: every part says how it ends where it starts, and the stop is the
//! start reversed. What must not stay behind is owed as a durable cleanup, on record before it exists: it
//! goes also when the service is killed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use epilogue::durable::{self, DurableGuard, Identity, KillMarked, RemoveFile};
use epilogue::{App, DurableScope, Error, Started, http, part};
use tokio::net::TcpListener;

use crate::Settings;
use crate::hooks::Hooks;
use crate::lock::Lock;
use crate::spool::Spool;
use crate::store::Store;
use crate::{control, outbox, routes, shipper};

/// Runs the service until it is told to stop.
pub async fn main(settings: Settings) -> ExitCode {
    epilogue::run(async |app: &App| serve(app, &settings).await).await
}

async fn serve(app: &App, settings: &Settings) -> Result<(), Error> {
    settings.make_dirs()?;
    durable::recover(Duration::from_secs(10))?;
    let hooks = Hooks::default();
    let log = settings.data.join("messages.log");

    let path = settings.run.join("orders.lock");
    let owed = app.durable(RemoveFile::new(&path)?)?;
    let _lock = Lock::acquire(&path)?;
    owed.amend(Identity::of(&path)?)?;
    let store = app
        .start(part("database", async || {
            let store = Store::open(&settings.data.join("orders.db"))?;
            Ok(Started::new(store.clone(), async move |_| Ok(store.close().await?)))
        }))
        .await?;
    let marked = KillMarked::new();
    let mut command = shipper::command(&log, &settings.data.join("shipped.log"))?;
    let (name, mark) = marked.variable();
    command.env(name, mark);
    let owed = app.durable(marked)?;
    app.start(part("log shipper", async || {
        let mut child = command.spawn()?;
        Ok(Started::new((), async move |_| {
            shipper::stop(&mut child).await?;
            owed.disarm();
            Ok(())
        }))
    }))
    .await?;
    app.spawn_until("outbox", |stop| {
        outbox::work(store.clone(), log.clone(), async move { stop.stopped().await })
    });
    let socket = settings.run.join("control.sock");
    let owed = app.durable(RemoveFile::new(&socket)?)?;
    let listener = control::bind(&socket)?;
    owed.amend(Identity::of(&socket)?)?;
    app.spawn_until("control", |stop| control::serve(listener, async move { stop.stopped().await }));

    let router = routes::router(settings, store, make_spool, &hooks);
    let listener = TcpListener::bind(("127.0.0.1", settings.port)).await?;
    app.start(http::serve(listener, router).readiness("/ready").liveness("/live")).await?;
    if let Some((nacos, instance)) = crate::registry::of(settings)? {
        app.start(epilogue::registry::registered(nacos, instance)).await?;
    }

    tokio::select! {
        () = app.stopping() => {}
        () = hooks.stop() => app.stop(),
        () = hooks.panic_main() => panic!("asked to panic in main"),
    }
    Ok(())
}

/// On record before the file exists.
fn make_spool(path: PathBuf) -> io::Result<Box<dyn Spool>> {
    let guard = durable::guard(RemoveFile::new(&path)?).map_err(io::Error::other)?;
    Ok(Box::new(DurableSpool { path, guard }))
}

struct DurableSpool {
    path: PathBuf,
    guard: DurableGuard,
}

impl Spool for DurableSpool {
    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(self: Box<Self>, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.guard.disarm();
        Ok(())
    }
}
