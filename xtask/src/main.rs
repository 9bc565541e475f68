//! `cargo xtask`: the project's own chores.

mod packages;
mod steps;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Command {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests need, then run every check there is
    ///
    /// Formatting, lints, documentation, unit, doc and integration tests, then the end-to-end
    /// tests: real processes, real signals, a real browser. About five minutes on two cores, the
    /// first time.
    Test,
    /// Fifty TERM rows in a loop: the same verdict and the same losses fifty times
    Steady,
    /// The crates with `unsafe` of their own, under AddressSanitizer and ThreadSanitizer
    ///
    /// Needs a nightly toolchain.
    Sanitize,
}

fn main() -> ExitCode {
    let done = match Command::parse().chore {
        Chore::Test => packages::ensure().and_then(|()| steps::test()),
        Chore::Steady => steps::steady(),
        Chore::Sanitize => steps::sanitize(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
