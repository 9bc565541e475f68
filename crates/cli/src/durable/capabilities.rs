//! `epilogue capabilities`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use super::status::{CANNOT_CREATE, Failure};

/// Say how far durable cleanups reach in this place, and what to do about what they do not
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where the journal is to go
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> ExitCode {
    super::status::code(tell(args).map(|()| 0))
}

fn tell(args: &Args) -> Result<(), Failure> {
    let found = epilogue_guardian::capabilities(args.dir.as_deref())
        .map_err(|error| Failure::new(CANNOT_CREATE, error.to_string()))?;
    if args.json {
        super::print(format_args!("{:#}", serde_json::json!(found)));
    } else {
        super::print(found.to_string().trim_end());
    }
    Ok(())
}
