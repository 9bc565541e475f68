//! `epilogue disarm`.

use std::process::ExitCode;

use clap::Parser;
use epilogue_guardian::Run;
use epilogue_journal::Disarm;

use super::find::{self, Name, Which};
use super::status::{Failure, TOO_LATE};

/// Say that a deferred cleanup shall not run
///
/// Exit status: 0 it will not run, now or already; 66 there is no such cleanup; 75 too late: it is running,
/// was tried, or has run.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Its id, as 'defer -p' printed it, or the name that it was given
    name: Name,
    /// Which scope: outer, root, or the value of EPILOGUE_SCOPE somewhere
    #[arg(long, value_name = "SCOPE", default_value = "inner")]
    scope: Which,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> ExitCode {
    super::status::code(disarm(args).map(|()| 0))
}

fn disarm(args: &Args) -> Result<(), Failure> {
    let run = run(args)?;
    let id = args.name.record_in(&run)?.ok_or_else(|| args.name.not_found())?;
    match run.journal.disarm_id(id)? {
        Disarm::Disarmed | Disarm::Already => Ok(()),
        Disarm::TooLate(state) => Err(Failure::new(TOO_LATE, format!("too late: {} is {state}", args.name))),
    }
}

/// An id that names its run is enough; otherwise the scope's.
fn run(args: &Args) -> Result<Run, Failure> {
    if args.name.names_run() {
        let found = find::all_runs(None)?.into_iter().find(|run| args.name.in_run(run));
        return found.ok_or_else(|| args.name.not_found());
    }
    Ok(find::scope(&args.scope)?.0)
}
