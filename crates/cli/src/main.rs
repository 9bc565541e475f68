//! The `epilogue` command.

mod builtin;
mod durable;
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
    Run(durable::run::Args),
    Defer(durable::defer::Args),
    Tmp(durable::tmp::Args),
    Id(durable::id::Args),
    Disarm(durable::disarm::Args),
    Pending(durable::pending::Args),
    Recover(durable::recover::Args),
    Capabilities(durable::capabilities::Args),
    Prove(Box<prove::Args>),
    /// The example service that `prove` ends when no command is given
    #[command(hide = true)]
    Orders(orders::Settings),
    #[command(name = "__exec", hide = true)]
    Exec(durable::run::ExecArgs),
}

fn main() -> ExitCode {
    match Command::parse().command {
        Commands::Run(args) => durable::run::main(args),
        Commands::Defer(args) => durable::defer::main(args),
        Commands::Tmp(args) => durable::tmp::main(args),
        Commands::Id(args) => durable::id::main(&args),
        Commands::Disarm(args) => durable::disarm::main(&args),
        Commands::Pending(args) => durable::pending::main(args),
        Commands::Recover(args) => durable::recover::main(&args),
        Commands::Capabilities(args) => durable::capabilities::main(&args),
        Commands::Prove(args) => prove::main(*args),
        Commands::Orders(settings) => orders::main(settings),
        Commands::Exec(args) => durable::run::exec(&args),
    }
}
