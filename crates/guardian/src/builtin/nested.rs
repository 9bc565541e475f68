//! A run inside a run: if the inner wrapper and guardian both die, the outer pays it, at that place in
//! its order.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use epilogue_journal::Ended;
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::identity::{self, Alive};
use crate::os;
use crate::pay::{Options, Runner};
use crate::recover::{self, Recovered};
use crate::run::Run;

/// Pays another run, once its owner is gone. One that still runs when the scope around it was left by an
/// error, a signal or a kill is told to end; after a success it is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverRun {
    /// Its directory.
    pub dir: PathBuf,
}

impl Action for RecoverRun {
    const NAME: &'static str = "epilogue.recover_run";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        if !self.dir.join("journal").exists() {
            return Ok(());
        }
        let run = Run::open(&self.dir).map_err(|error| ActionError::retry(error.to_string()))?;
        let options = Options { budget: cx.remaining(), ..Options::of(Runner::Recover) };
        if run.alive().is_ok_and(|alive| alive == Alive::Yes) {
            if cx.ended() == Ended::Exited(0) {
                // Left running by a scope that was left well: it goes on, and pays for itself.
                return Ok(());
            }
            end(&run, cx.deadline());
        }
        // Its own payers come first, and newest first is their order too.
        match recover::recover_run(run, &options, cx.remaining()) {
            Ok(Recovered::Paid(report)) if report.left() == 0 => Ok(()),
            Ok(Recovered::Paid(report)) => {
                Err(ActionError::retry(format!("{} cleanups of it are left", report.left())))
            }
            Ok(Recovered::Alive) => Err(ActionError::retry("its owner is still there")),
            Ok(Recovered::Busy | Recovered::Unknown) => Err(ActionError::retry("another payer has it")),
            Err(error) => Err(ActionError::retry(error.to_string())),
        }
    }

    fn describe(&self) -> String {
        format!("pay the run in {}", self.dir.display())
    }
}

/// Tells the wrapper of a run to end, which tells its command, and waits until both are gone.
fn end(run: &Run, deadline: Instant) {
    let (Ok(wrapper), Ok(owner)) = (run.journal.wrapper(), run.journal.owner()) else { return };
    let pidfds = [wrapper, owner].map(|process| identity::watch(run.meta(), process).ok().flatten());
    if let Some(first) = pidfds.iter().flatten().next() {
        let _ = os::signal_by_pidfd(first, libc::SIGTERM);
    }
    for pidfd in pidfds.iter().flatten() {
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = os::wait_readable(&[pidfd.as_fd()], Some(left.max(Duration::from_millis(1))));
    }
}
