//! Paying runs whose owners are dead: the next start, `ExecStopPost=`, a step of a pipeline, boot.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use epilogue_journal::{Ended, Generation, Phase};

use crate::child::say;
use crate::identity::{self, Alive};
use crate::log;
use crate::pay::{self, Options, Report, Runner};
use crate::run::{Run, RunError};

/// What came of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It was paid, or as much of it as could be.
    Paid(Report),
    /// Its owner lives: nothing was done.
    Alive,
    /// Another payer has it.
    Busy,
    /// Nobody here can tell whether its owner lives: see [`Alive::Elsewhere`].
    Unknown,
}

/// How long the lock of a dead payer may be held by what it forked, before it is passed over.
const INHERITED_LOCK: Duration = Duration::from_secs(1);
/// Who only wants to know whether it is held holds it for less than this.
const LOOK: Duration = Duration::from_millis(50);

/// Pays one run, if its owner and the command it waits for are provably dead.
///
/// # Errors
///
/// [`RunError`] when it cannot be read or written.
pub fn recover_run(run: Run, options: &Options, wait: Duration) -> Result<Recovered, RunError> {
    match run.alive()? {
        Alive::Yes => return Ok(Recovered::Alive),
        Alive::Elsewhere => return Ok(Recovered::Unknown),
        Alive::No => {}
    }
    pay_dead(run, options, wait)
}

/// Pays a run whose owner is gone, as the caller knows.
///
/// # Errors
///
/// As [`recover_run`].
pub fn pay_dead(run: Run, options: &Options, wait: Duration) -> Result<Recovered, RunError> {
    let lock = match lock(&run, wait)? {
        Lock::Held(file) => Some(file),
        Lock::Busy => return Ok(Recovered::Busy),
        // Somebody has deleted the run. Who has it open still holds all that is owed; that is one payer.
        Lock::Gone => None,
    };
    // Whoever pays after a wait, or on somebody's word, looks once more: the owner may have changed.
    if options.runner != Runner::Wrapper && run.alive()? == Alive::Yes {
        return Ok(Recovered::Alive);
    }
    if run.journal.phase()? == Phase::Closed {
        // The payer before has finished, and removed it; or was killed before it had.
        if lock.is_some() && run.dir.exists() {
            let _ = run.remove();
        }
        return Ok(Recovered::Paid(Report::default()));
    }
    if lock.is_none() {
        say(&format!("epilogue: {} was deleted; what was on record is paid all the same", run.dir.display()));
    }
    let generation = take_over(&run)?;
    let report = match pay::pay(&run, generation, options) {
        Err(epilogue_journal::JournalError::Fenced { .. }) => return Ok(Recovered::Busy),
        paid => paid?,
    };
    let ended = run.journal.ended().unwrap_or(Ended::Unknown);
    log::remember(&run, ended, options.runner, &report);
    if report.left() == 0 && run.journal.close(generation)? {
        // It says that it is closed; what is left of it is a few kilobytes.
        let _ = run.remove();
    }
    Ok(Recovered::Paid(report))
}

/// The caller holds the lock.
pub(crate) fn take_over(run: &Run) -> Result<Generation, RunError> {
    let generation = run.journal.take_over(identity::this_process())?;
    run.journal.set_payer_namespace(identity::pid_namespace())?;
    Ok(generation)
}

/// What came of asking for the right to pay.
pub(crate) enum Lock {
    Held(File),
    Busy,
    /// The run is not there any more.
    Gone,
}

/// The right to pay. A payer that is dead, and whose lock lives on in a child it forked, is passed over.
pub(crate) fn lock(run: &Run, wait: Duration) -> Result<Lock, RunError> {
    let path = run.dir.join("lock");
    let io = |source| RunError::Io { path: path.clone(), doing: "locking", source };
    // Made anew if somebody has removed it: what is owed must not wait for ever for a file.
    let file = match OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Lock::Gone),
        Err(error) => return Err(io(error)),
    };
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock::Held(file)),
            Err(TryLockError::Error(error)) => return Err(io(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let dead = run.is_payer_dead()?;
        if dead && began.elapsed() >= INHERITED_LOCK {
            // Whoever holds it cannot pay: it has another generation than the one that is taken next.
            return Ok(Lock::Held(file));
        }
        if !dead && began.elapsed() >= wait.max(LOOK) {
            return Ok(Lock::Busy);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Every run of a home, recovered: with its directory's name and what came of it.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn recover_all(
    home: &Path,
    options: &Options,
    wait: Duration,
    only: impl Fn(&Run) -> bool,
) -> std::io::Result<Vec<(String, Result<Recovered, RunError>)>> {
    let mut all = Vec::new();
    crate::sweep::sweep(home);
    for (dir, run) in Run::all(home)? {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match run {
            Ok(run) if only(&run) => {
                all.push((format!("{} ({})", run.short(), run.meta().name), recover_run(run, options, wait)));
            }
            Ok(_) => {}
            Err(error) => all.push((name, Err(error))),
        }
    }
    Ok(all)
}
