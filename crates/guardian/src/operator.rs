//! An operator's word on one record: it is to be tried again, or never to run. Both are noted.

use std::time::Duration;

use epilogue_journal::{Entry, JournalError, State};

use crate::identity::Alive;
use crate::log::{self, Log};
use crate::pay::{self, Runner};
use crate::recover::{self, Lock};
use crate::run::{Run, RunError};

/// Puts a record that failed or is parked back, as if it had never been tried. Returns whether it was one.
///
/// # Errors
///
/// [`JournalError`], as [`Journal::retry`](epilogue_journal::Journal::retry).
pub fn retry(run: &Run, id: u64) -> Result<bool, JournalError> {
    let entry = run.journal.entry(id)?;
    let again = run.journal.retry(id)?;
    if again {
        note(run, &entry, log::RETRIED);
    }
    Ok(again)
}

/// Says of a record that it shall never run. Of one that a payer had begun before it died, what that payer
/// has started is ended first. `false`: it is settled, or another payer is at it, or its owner may be.
///
/// # Errors
///
/// [`RunError`] when it cannot be read or written.
pub fn drop_record(run: &Run, id: u64) -> Result<bool, RunError> {
    let entry = run.journal.entry(id)?;
    let dropped = run.journal.drop_record(id)? || drop_begun(run, id)?;
    if dropped {
        note(run, &entry, "dropped");
    }
    Ok(dropped)
}

fn drop_begun(run: &Run, id: u64) -> Result<bool, RunError> {
    if run.journal.entry(id)?.state != State::Running {
        return Ok(false);
    }
    let Lock::Held(_lock) = recover::lock(run, Duration::ZERO)? else { return Ok(false) };
    if run.alive()? != Alive::No {
        return Ok(false);
    }
    let generation = recover::take_over(run)?;
    let entry = run.journal.entry(id)?;
    Ok(pay::end_begun(run, &entry) && run.journal.park(generation, &entry)? && run.journal.drop_record(id)?)
}

fn note(run: &Run, entry: &Entry, word: &str) {
    let what = pay::describe(entry);
    Log::of(Some(&run.dir)).attempt(entry, Runner::Operator, &what, word, None, "", Duration::ZERO);
}
