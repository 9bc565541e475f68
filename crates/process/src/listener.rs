//! Listeners that outlive a generation of the program.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::app::App;
use crate::error::Error;
use crate::inherited;

/// What may be handed over: copies of the listeners by their names.
#[derive(Default)]
pub(crate) struct Listeners {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    kept: Vec<(String, std::net::TcpListener)>,
    /// The program is stopping: nothing is kept any more.
    closed: bool,
}

impl App {
    /// A TCP listener that was left open for this program under this name, by the [generation](App::upgrade) before
    /// it or by systemd (`FileDescriptorName=`; with no name that fits, the one at this address, or the only one);
    /// otherwise a new one, bound to `address`.
    ///
    /// It is what [`upgrade`](App::upgrade) hands on. Asked for once more, by a part that is started again, it is the
    /// same listener; it stays open until the program stops.
    ///
    /// # Errors
    ///
    /// A name that is empty, or holds a `;`; an address that is none or in use; a descriptor that is no TCP
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
        // Of a part that is started once more.
        if let Some(again) = self.inner.listeners.again(&name)? {
            return Ok(again);
        }
        let wanted: Vec<SocketAddr> = tokio::net::lookup_host(address)
            .await
            .map_err(|error| Error::from(error).context(format!("listener {name:?}")))?
            .collect();
        let inherits = self.inner.options.owns_process && self.inner.options.environment;
        let left_open = if inherits { inherited::take(&name, &wanted)? } else { None };
        let listener = match left_open {
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
        let mut all = self.lock();
        if !all.closed {
            all.kept.push((name, copy.into()));
        }
        Ok(())
    }

    fn again(&self, name: &str) -> std::io::Result<Option<tokio::net::TcpListener>> {
        let all = self.lock();
        let kept = all.kept.iter().find(|(other, _)| other == name);
        kept.map(|(_, listener)| listener.try_clone().and_then(tokio::net::TcpListener::from_std)).transpose()
    }

    /// Copies for another process.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<(String, std::net::TcpListener)>> {
        let copy = |(name, listener): &(String, std::net::TcpListener)| {
            Ok::<_, std::io::Error>((name.clone(), listener.try_clone()?))
        };
        self.lock().kept.iter().map(copy).collect()
    }

    /// Where those of these names listen, and where the others do.
    pub(crate) fn addresses(&self, names: &[String]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let all = self.lock();
        let (named, others): (Vec<_>, Vec<_>) = all.kept.iter().partition(|(name, _)| names.contains(name));
        let addresses = |listeners: Vec<&(String, std::net::TcpListener)>| {
            listeners.into_iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
        };
        (addresses(named), addresses(others))
    }

    /// The program is stopping: from now on only its servers hold them.
    pub(crate) fn forget(&self) {
        let mut all = self.lock();
        all.closed = true;
        all.kept.clear();
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
