//! What servers have in common: the accept loop, what is known of each connection, and the states of the drain.

pub(crate) mod accept;
pub(crate) mod close;
pub(crate) mod connections;
mod drain;
pub(crate) mod stop;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use connections::Shared;

use crate::budget::LONGEST;

/// The states of a server, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Leaving,
    Closing,
    Finishing,
    /// Streams without an end of their own have had their time.
    StreamsCut,
    Cut,
}

/// The times of a drain.
#[derive(Clone, Debug)]
pub(crate) struct Times {
    pub(crate) quiet: Duration,
    pub(crate) hold_min: Option<Duration>,
    pub(crate) hold_max: Option<Duration>,
    pub(crate) idle_linger: Duration,
    /// `None`: as long as the budget allows.
    pub(crate) stream_cap: Option<Duration>,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            quiet: Duration::from_secs(1),
            hold_min: None,
            hold_max: None,
            idle_linger: Duration::from_secs(1),
            stream_cap: None,
        }
    }
}

impl Times {
    /// Whoever means for ever may say `Duration::MAX`: any clock can be told to wait for what is left of it.
    pub(crate) fn within_reason(self) -> Times {
        let short = |time: Duration| time.min(LONGEST);
        Times {
            quiet: short(self.quiet),
            hold_min: self.hold_min.map(short),
            hold_max: self.hold_max.map(short),
            idle_linger: short(self.idle_linger),
            stream_cap: self.stream_cap.map(short),
        }
    }
}

/// What a started server is used by.
#[derive(Clone)]
pub struct ServerHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
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

    /// How many requests are in flight: read, and their response not yet complete on this side. Of raw TCP: on how many
    /// connections something has come or gone.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight().len()
    }
}

/// Below it no quiet means anything: timers of busy machines are late by some tens of milliseconds.
pub(crate) const SHORTEST_QUIET: Duration = Duration::from_millis(500);
