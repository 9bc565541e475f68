//! The `epilogue` command.

mod builtin;
mod progress;
mod prove;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Cleanup you can count on: what a program defers, runs.
#[derive(Parser)]
#[command(name = "epilogue", version, propagate_version = true)]
struct Command {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    Prove(Box<prove::Args>),
    /// The example service that `prove` ends when no command is given
    #[command(hide = true)]
    Orders(orders::Settings),
}

fn main() -> ExitCode {
    match Command::parse().command {
        Commands::Prove(args) => prove::main(*args),
        Commands::Orders(settings) => orders::main(settings),
    }
}
