//! What servers have in common: the accept loop, what is known of each connection, and the states of the drain.

pub(crate) mod accept;
pub(crate) mod close;
pub(crate) mod connections;
mod drain;
pub(crate) mod stop;

use std::time::Duration;

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

/// Below it no quiet means anything: timers of busy machines are late by some tens of milliseconds.
pub(crate) const SHORTEST_QUIET: Duration = Duration::from_millis(500);
