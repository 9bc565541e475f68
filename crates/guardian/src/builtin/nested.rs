//! A run inside a run: if the inner wrapper and guardian both die, the outer pays it, at that place in
//! its order.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::pay::{Options, Runner};
use crate::recover::{self, Recovered};
use crate::run::Run;

/// Pays another run, once its owner is gone.
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
        match recover::recover_run(run, &options, Duration::ZERO) {
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
