//! `epilogue id`.

use std::process::ExitCode;

use clap::Parser;

use super::find::{self, Which};
use super::status::Failure;

/// Print a name that nobody else has, for what is to be cleaned up before it exists
///
/// 'n=web-$(epilogue id); epilogue defer -- docker rm -f "$n"; docker run --name "$n" …': deferring the
/// removal of a fixed name would remove somebody else's container when the name is taken.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Which scope: outer, root, or the value of EPILOGUE_SCOPE somewhere
    #[arg(long, value_name = "SCOPE", default_value = "inner")]
    scope: Which,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> ExitCode {
    super::status::code(id(args).map(|()| 0))
}

fn id(args: &Args) -> Result<(), Failure> {
    let (run, _) = find::scope(&args.scope)?;
    let number = run.journal.new_scope()?;
    super::print(format_args!("{}-{number}", run.short()));
    Ok(())
}
