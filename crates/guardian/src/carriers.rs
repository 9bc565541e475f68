//! Ending processes that are known by what they were started with in their environment.
//!
//! A pid is known only after the process exists; this is known before. It is not known of a process that
//! hides it: one of another user, or one that has written over its environment.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::os;
use crate::proc::{self, Shown};

/// What is looked for: a variable and its value.
#[derive(Clone, Copy)]
pub(crate) struct Mark<'a> {
    pub(crate) variable: &'static str,
    pub(crate) value: &'a str,
}

impl Mark<'_> {
    /// Whether a process of this PID namespace carries it.
    pub(crate) fn is_carried(self) -> bool {
        self.carriers().next().is_some()
    }

    /// Sends a signal to all that carry it, also to those that they start meanwhile, until none is left or
    /// the time is over. Returns whether none is left.
    pub(crate) fn end(self, signal: i32, until: Instant) -> bool {
        loop {
            let left: Vec<_> = self.carriers().filter_map(|shown| self.hold(shown)).collect();
            if left.is_empty() {
                return true;
            }
            for one in &left {
                one.signal(signal);
            }
            for one in &left {
                one.wait(until);
            }
            if Instant::now() >= until {
                return !self.is_carried();
            }
        }
    }

    fn carriers(self) -> impl Iterator<Item = Shown> {
        let me = std::process::id();
        proc::all().into_iter().filter(move |shown| shown.pid != me && self.is_on(*shown))
    }

    fn is_on(self, shown: Shown) -> bool {
        shown.carries(self.variable, Some(self.value))
    }

    /// Another may have come by the pid since it was looked at; by the pid of what is held nobody can.
    fn hold(self, shown: Shown) -> Option<Held> {
        let pidfd = os::pidfd(shown.pid);
        let gone = pidfd.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH));
        (!gone && self.is_on(shown)).then(|| Held { pid: shown.pid, pidfd: pidfd.ok() })
    }
}

/// A process that is to be ended; on a kernel that has no pidfds, or refuses them, by its pid.
struct Held {
    pid: u32,
    pidfd: Option<OwnedFd>,
}

impl Held {
    fn signal(&self, signal: i32) {
        match &self.pidfd {
            Some(pidfd) => drop(os::signal_by_pidfd(pidfd, signal)),
            None => os::signal_pid(self.pid, signal),
        }
    }

    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        match &self.pidfd {
            Some(pidfd) => drop(os::wait_readable(&[pidfd.as_fd()], Some(left))),
            // Looked at again now and then, by who calls this.
            None => std::thread::sleep(left.min(Duration::from_millis(5))),
        }
    }
}
