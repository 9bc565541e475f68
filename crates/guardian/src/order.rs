//! Running one action in a process of its own, which can be killed and may crash: giving the order, and
//! obeying it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::PoisonError;

use epilogue_journal::Entry;
use serde::{Deserialize, Serialize};

use crate::action::{ActionCx, ActionError, Call};
use crate::builtin::KEY_ENV;
use crate::child::{self, Output, say};
use crate::pay;
use crate::run::Run;

/// The variable that makes a program run one action and nothing else.
pub(crate) const ACTION_ENV: &str = "EPILOGUE_ACTION";

/// What such a program is told.
#[derive(Serialize, Deserialize)]
struct Order {
    dir: PathBuf,
    id: u64,
    attempt: u8,
    fence: u64,
}

/// Exit codes by which it answers.
const RETRY: u8 = 75;
const PARK: u8 = 78;

/// Runs an action in a process of its own, which can be killed, and may crash.
pub(crate) fn give(program: &Path, dir: &Path, entry: &Entry, cx: &ActionCx) -> Result<(), ActionError> {
    let order = Order { dir: dir.to_owned(), id: entry.id, attempt: cx.attempt, fence: cx.fence };
    let mut command = Command::new(program);
    command.env(ACTION_ENV, serde_json::to_string(&order)?).env(KEY_ENV, &cx.key);
    let outcome = child::run(command, None, cx.deadline, Output::Kept);
    let words = outcome.output.trim_end();
    words.clone_into(&mut cx.said.lock().unwrap_or_else(PoisonError::into_inner));
    let last = words.lines().last().unwrap_or_default();
    match outcome.result {
        Err(error) if error.message == format!("exit code {PARK}") => Err(ActionError::park(last)),
        Err(error) if error.message == format!("exit code {RETRY}") => Err(ActionError::retry(last)),
        result => result,
    }
}

pub(crate) fn main(order: OsString) -> u8 {
    match obey(&order) {
        Ok(()) => 0,
        Err(error) => {
            say(&error.message);
            if error.park { PARK } else { RETRY }
        }
    }
}

fn obey(order: &OsString) -> Result<(), ActionError> {
    let order: Order = serde_json::from_str(&order.to_string_lossy())?;
    let run = Run::open(Path::new(&order.dir))?;
    let entry = run.journal.entry(order.id)?;
    let call = Call::from_bytes(&entry.body)
        .map_err(|error| ActionError::park(format!("it cannot be read: {error}")))?;
    let mut cx = pay::context_of_run(&run, &entry, order.attempt)?;
    cx.fence = order.fence;
    cx.deadline = std::time::Instant::now() + call.timeout();
    call.run(&cx)
}
