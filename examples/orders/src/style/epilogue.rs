//! The same service on Epilogue: every part says how it ends where it starts, and the stop is the
//! start reversed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use epilogue::{App, CleanupResult, Error, Guard, Started, guard, http, part};
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
    let hooks = Hooks::default();
    let log = settings.data.join("messages.log");

    app.start(part("lock file", async || {
        let lock = Lock::acquire(&settings.run.join("orders.lock"))?;
        Ok(Started::new((), async move |_| Ok(lock.release()?)))
    }))
    .await?;
    let store = app
        .start(part("database", async || {
            let store = Store::open(&settings.data.join("orders.db"))?;
            Ok(Started::new(store.clone(), async move |_| Ok(store.close().await?)))
        }))
        .await?;
    app.start(part("log shipper", async || {
        let mut child = shipper::command(&log, &settings.data.join("shipped.log"))?.spawn()?;
        Ok(Started::new((), async move |_| Ok(shipper::stop(&mut child).await?)))
    }))
    .await?;
    app.spawn_until("outbox", |stop| {
        outbox::work(store.clone(), log.clone(), async move { stop.stopped().await })
    });
    let socket = settings.run.join("control.sock");
    let listener = control::bind(&socket)?;
    app.defer("control socket", async move || Ok(std::fs::remove_file(socket)?));
    app.spawn_until("control", |stop| control::serve(listener, async move { stop.stopped().await }));

    let router = routes::router(settings, store, make_spool, &hooks);
    let listener = TcpListener::bind(("127.0.0.1", settings.port)).await?;
    app.start(http::serve(listener, router).readiness("/ready").liveness("/live")).await?;

    tokio::select! {
        () = app.stopping() => {}
        () = hooks.stop() => app.stop(),
        () = hooks.panic_main() => panic!("asked to panic in main"),
    }
    Ok(())
}

fn make_spool(path: PathBuf) -> Box<dyn Spool> {
    Box::new(guard(path, remove as fn(PathBuf) -> io::Result<()>))
}

fn remove(path: PathBuf) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl<F, C> Spool for Guard<PathBuf, F, C>
where
    F: FnOnce(PathBuf) -> C + Send,
    C: CleanupResult,
{
    fn path(&self) -> &Path {
        self
    }

    fn keep(self: Box<Self>, to: &Path) -> io::Result<()> {
        std::fs::rename(self.path(), to)?;
        self.disarm();
        Ok(())
    }
}
