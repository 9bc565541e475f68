//! Ending processes that nobody looks after any more.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::carriers::Mark;
use crate::{identity, os};

/// Ends a process and its group: TERM, a grace of five seconds, KILL.
///
/// The process is known by pid and start time, so one that has its pid by now is left alone. Its group is
/// signalled only while it leads one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillGroup {
    pid: u32,
    start: u64,
    pid_namespace: u64,
}

const GRACE: Duration = Duration::from_secs(5);

/// Ends every process that was started with a mark in its environment.
///
/// A pid is known only after the process exists; a mark is known before, so it can be on record first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillMarked {
    mark: String,
    pid_namespace: u64,
}

/// The variable that carries the mark.
pub const MARK_ENV: &str = "EPILOGUE_MARK";

impl KillMarked {
    /// With a mark that nobody else has.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn register(_: &epilogue_guardian::KillMarked) {}
    /// let marked = epilogue_guardian::KillMarked::new();
    /// register(&marked);                       // first
    /// let (name, value) = marked.variable();
    /// std::process::Command::new("tail").env(name, value).spawn()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> KillMarked {
        KillMarked { mark: crate::run::unique(), pid_namespace: identity::pid_namespace() }
    }

    /// What is to be set in the environment of the process.
    pub fn variable(&self) -> (&'static str, &str) {
        (MARK_ENV, &self.mark)
    }
}

impl Action for KillMarked {
    const NAME: &'static str = "epilogue.kill_marked";
    const OF_THIS_BOOT: bool = true;

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        if self.pid_namespace != identity::pid_namespace() {
            return Err(ActionError::park("the marked processes were of another PID namespace"));
        }
        let mark = Mark { variable: MARK_ENV, value: &self.mark };
        let ended = [libc::SIGTERM, libc::SIGKILL]
            .into_iter()
            .any(|signal| mark.end(signal, Instant::now() + GRACE.min(cx.remaining())));
        if ended { Ok(()) } else { Err(ActionError::retry("a marked process did not end")) }
    }

    fn describe(&self) -> String {
        format!("kill what carries the mark {}", self.mark)
    }
}

impl KillGroup {
    /// For a process that is there.
    ///
    /// # Errors
    ///
    /// When there is none with this pid.
    pub fn new(pid: u32) -> std::io::Result<KillGroup> {
        let start = identity::start_of(pid).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::NotFound, format!("there is no process {pid}"))
        })?;
        if start == 0 {
            let why = format!("when process {pid} was started is hidden here: it would not be known again");
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why));
        }
        Ok(KillGroup { pid, start, pid_namespace: identity::pid_namespace() })
    }

    /// `None`: somebody has the pid, and it cannot be told who.
    fn is_there(self) -> Option<bool> {
        match identity::start_of(self.pid) {
            Some(0) => None,
            start => Some(start.is_some_and(|start| identity::same_start(start, self.start))),
        }
    }

    fn signal(self, pidfd: &std::os::fd::OwnedFd, signal: i32) -> std::io::Result<()> {
        os::signal_by_pidfd(pidfd, signal)?;
        if os::leads_group(self.pid) {
            // Gone between the two: then there is nobody to tell.
            let _ = os::signal_group(self.pid, signal);
        }
        Ok(())
    }
}

impl Action for KillGroup {
    const NAME: &'static str = "epilogue.kill_group";
    const OF_THIS_BOOT: bool = true;

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        if self.pid_namespace != identity::pid_namespace() {
            return Err(ActionError::park(format!("process {} was of another PID namespace", self.pid)));
        }
        let pidfd = match os::pidfd(self.pid) {
            Ok(pidfd) => match self.is_there() {
                Some(true) => pidfd,
                Some(false) => return Ok(()),
                None => {
                    return Err(ActionError::retry(format!("who process {} is, is hidden here", self.pid)));
                }
            },
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error.into()),
            _ => return Ok(()),
        };
        for (signal, patience) in [(libc::SIGTERM, GRACE), (libc::SIGKILL, GRACE)] {
            match self.signal(&pidfd, signal) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                signalled => signalled?,
            }
            let patience = patience.min(cx.remaining().max(Duration::from_millis(1)));
            if os::wait_readable(&[pidfd.as_fd()], Some(patience))?[0] {
                if os::leads_group(self.pid) {
                    let _ = os::signal_group(self.pid, libc::SIGKILL);
                }
                return Ok(());
            }
        }
        Err(ActionError::retry(format!("process {} did not end", self.pid)))
    }

    fn describe(&self) -> String {
        format!("kill {}", self.pid)
    }
}
