//! `orders`: the example service as a program of its own.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(about, version)]
struct Command {
    #[command(flatten)]
    settings: orders::Settings,
}

fn main() -> ExitCode {
    orders::main(Command::parse().settings)
}
