//! Listeners that outlive a generation of the program.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::app::App;
use crate::error::Error;
use crate::inherited;

/// What may be handed over: copies of the listeners by their names.
#[derive(Default)]
pub(crate) struct Listeners {
    all: Mutex<Vec<(String, std::net::TcpListener)>>,
}

impl App {
    /// A TCP listener that was left open for this program under this name, by the [generation](App::upgrade) before
    /// it or by systemd (`FileDescriptorName=`; with no name that fits, the one at this address, or the only one);
    /// otherwise a new one, bound to `address`.
    ///
    /// It is what [`upgrade`](App::upgrade) hands on.
    ///
    /// # Errors
    ///
    /// A name that is taken, or holds a `;`; an address that is none or in use; a descriptor that is no TCP
    /// listener.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use epilogue_process::{App, Error};
    /// # async fn body(app: &App) -> Result<(), Error> {
    /// let listener = app.listener("http", "127.0.0.1:8080").await?;
    /// # let _ = listener; Ok(()) }
    /// ```
    pub async fn listener(
        &self,
        name: impl Into<String>,
        address: impl tokio::net::ToSocketAddrs,
    ) -> Result<tokio::net::TcpListener, Error> {
        let name = name.into();
        let bad = |why: &str| Error::msg(format!("listener {name:?}: {why}"));
        if name.is_empty() || name.contains(';') {
            return Err(bad("a name without ; is needed"));
        }
        if self.inner.listeners.lock().iter().any(|(other, _)| *other == name) {
            return Err(bad("there is one of this name"));
        }
        let wanted: Vec<SocketAddr> = tokio::net::lookup_host(address)
            .await
            .map_err(|error| Error::from(error).context(format!("listener {name:?}")))?
            .collect();
        let listener = match inherited::take(&name, &wanted)? {
            Some(listener) => tokio::net::TcpListener::from_std(listener)?,
            None => tokio::net::TcpListener::bind(&wanted[..])
                .await
                .map_err(|error| Error::from(error).context(format!("listener {name:?} at {wanted:?}")))?,
        };
        self.inner.listeners.keep(name, &listener)?;
        Ok(listener)
    }
}

impl Listeners {
    fn keep(&self, name: String, listener: &tokio::net::TcpListener) -> std::io::Result<()> {
        let copy = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned()?;
        self.lock().push((name, copy.into()));
        Ok(())
    }

    /// Copies for another process.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<(String, std::net::TcpListener)>> {
        let copy = |(name, listener): &(String, std::net::TcpListener)| {
            Ok::<_, std::io::Error>((name.clone(), listener.try_clone()?))
        };
        self.lock().iter().map(copy).collect()
    }

    /// The program is stopping: from now on only its servers hold them.
    pub(crate) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, std::net::TcpListener)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
