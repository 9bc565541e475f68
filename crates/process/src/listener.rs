//! Listeners that outlive a generation of the program.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::app::App;
use crate::error::Error;
use crate::inherited;
use crate::os;

/// What may be handed over: copies of the listeners by their names.
#[derive(Default)]
pub(crate) struct Listeners {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    kept: Vec<Kept>,
    /// The program is stopping: nothing is kept any more.
    closed: bool,
}

struct Kept {
    name: String,
    listener: std::net::TcpListener,
}

impl App {
    /// A TCP listener that was left open for this program under this name, by the [generation](App::upgrade) before
    /// it or by systemd (`FileDescriptorName=`; of systemd, with no name that fits, the one at this address, or the only
    /// one); otherwise a new one, bound to `address`.
    ///
    /// It is what [`upgrade`](App::upgrade) hands on, by its name: names are a promise to the next version. One that was
    /// left open stays where it listens, whatever address is asked for; unless systemd's unit has it so, stderr says so: an
    /// address changes with a restart. Asked for once more, by a part that is started again, it is the same listener; it stays open until the
    /// program stops.
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
        address: impl tokio::net::ToSocketAddrs + std::fmt::Debug,
    ) -> Result<tokio::net::TcpListener, Error> {
        let name = name.into();
        let bad = |why: &str| Error::msg(format!("listener {name:?}: {why}"));
        if name.is_empty() || name.contains(';') {
            return Err(bad("a name without ; is needed"));
        }
        let asked = format!("{address:?}");
        let inherits = self.inner.options.owns_process && self.inner.options.environment;
        // Of a part that is started once more.
        let again = self.inner.listeners.again(&name)?;
        let wanted: Result<Vec<SocketAddr>, _> =
            tokio::net::lookup_host(address).await.map(Iterator::collect);
        if let Some(again) = again {
            if inherits && wanted.is_ok_and(|wanted| !listens_there(&again, &wanted)) {
                say_where(&name, &again, &asked);
            }
            return Ok(again);
        }
        let wanted =
            wanted.map_err(|error| Error::from(error).context(format!("listener {name:?} at {asked}")))?;
        let left_open = if inherits { inherited::take(&name, &wanted)? } else { None };
        let listener = match left_open {
            Some(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                // Where systemd listens is for its unit to say.
                if inherited::is_taking_over() && !listens_there(&listener, &wanted) {
                    say_where(&name, &listener, &asked);
                }
                listener
            }
            None => tokio::net::TcpListener::bind(&wanted[..]).await.map_err(|error| {
                let others = if inherits { inherited::not_taken() } else { Vec::new() };
                let hint = match others.is_empty() {
                    true => String::new(),
                    false => format!(" (left open for this program: {})", others.join(", ")),
                };
                Error::from(error).context(format!("listener {name:?} at {asked}{hint}"))
            })?,
        };
        self.inner.listeners.keep(name, &listener)?;
        Ok(listener)
    }
}

fn listens_there(listener: &tokio::net::TcpListener, wanted: &[SocketAddr]) -> bool {
    let Ok(at) = listener.local_addr() else { return false };
    let everywhere = |one: &SocketAddr| one.ip().is_unspecified();
    let is_it = |wanted: &SocketAddr| {
        (wanted.port() == 0 || wanted.port() == at.port())
            && (wanted.ip() == at.ip() || (everywhere(wanted) && everywhere(&at)))
    };
    wanted.iter().any(is_it)
}

/// Whoever asks for another address than the listener has would look for it there.
fn say_where(name: &str, listener: &tokio::net::TcpListener, asked: &str) {
    let at = listener.local_addr().map_or_else(|error| error.to_string(), |at| at.to_string());
    os::say(&format!(
        "epilogue: listener {name:?} is open at {at} already, and stays there; asked for is {asked}"
    ));
}

impl Listeners {
    fn keep(&self, name: String, listener: &tokio::net::TcpListener) -> std::io::Result<()> {
        let copy = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned()?;
        let mut all = self.lock();
        if !all.closed {
            all.kept.push(Kept { name, listener: copy.into() });
        }
        Ok(())
    }

    fn again(&self, name: &str) -> std::io::Result<Option<tokio::net::TcpListener>> {
        let all = self.lock();
        let kept = all.kept.iter().find(|kept| kept.name == name);
        kept.map(|kept| kept.listener.try_clone().and_then(tokio::net::TcpListener::from_std)).transpose()
    }

    /// Copies for another process.
    pub(crate) fn copies(&self) -> std::io::Result<Vec<(String, std::net::TcpListener)>> {
        let copy = |kept: &Kept| Ok::<_, std::io::Error>((kept.name.clone(), kept.listener.try_clone()?));
        self.lock().kept.iter().map(copy).collect()
    }

    /// Where those of these names listen, and where the others do.
    pub(crate) fn addresses(&self, names: &[String]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let all = self.lock();
        let (named, others): (Vec<_>, Vec<_>) = all.kept.iter().partition(|kept| names.contains(&kept.name));
        let addresses = |listeners: Vec<&Kept>| {
            listeners.into_iter().filter_map(|kept| kept.listener.local_addr().ok()).collect()
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
