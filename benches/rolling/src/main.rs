//! Rolling restarts of three instances of the order service behind clients that read a registry.
//!
//! The clients are what operators know: each keeps one connection to each instance, asks on each of them at least
//! twice a second, takes the instances in turn from a list that is polled once a second, and honours
//! `Connection: close`. They never ask twice: whatever is not answered is lost.

mod clients;
mod instances;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use epilogue_testkit::RegistryServer;

use clients::{Clients, Counted};
use instances::Instances;

/// Rolling restarts of three instances of the order service under load: what is lost.
#[derive(Parser)]
struct Command {
    /// The `orders` program
    #[arg(long, value_name = "PATH")]
    orders: PathBuf,
    /// How many requests are to be answered
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// How many clients ask at the same time
    #[arg(long, default_value_t = 24)]
    clients: usize,
    /// The style of the service: epilogue, plain, or both, one after the other
    #[arg(long, default_value = "both")]
    style: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Command::parse();
    let styles = match command.style.as_str() {
        "both" => vec!["epilogue", "plain"],
        style @ ("epilogue" | "plain") => vec![style],
        other => {
            eprintln!("--style {other:?}: it is epilogue, plain or both");
            return ExitCode::from(2);
        }
    };
    let mut lost_by_us = 0;
    println!("style     requests  restarts  lost  of which");
    for style in styles {
        match roll(&command, style).await {
            Ok((counted, restarts)) => {
                tell(style, &counted, restarts);
                lost_by_us += if style == "epilogue" { counted.lost() } else { 0 };
            }
            Err(error) => {
                eprintln!("{style}: {error}");
                return ExitCode::from(5);
            }
        }
    }
    if lost_by_us > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn tell(style: &str, counted: &Counted, restarts: u32) {
    let mut kinds: Vec<String> =
        counted.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    kinds.sort();
    let (all, lost) = (counted.answered + counted.lost(), counted.lost());
    println!("{style:8}  {all:8}  {restarts:8}  {lost:4}  {}", kinds.join(", "));
}

async fn roll(command: &Command, style: &str) -> std::io::Result<(Counted, u32)> {
    let registry = RegistryServer::start().await?;
    let mut instances = Instances::start(&command.orders, style, &registry).await?;
    let clients = Clients::start(&registry, command.clients);
    let mut restarts = 0;
    let mut told = Instant::now();
    while clients.counted().answered < command.requests || restarts < 6 {
        instances.restart_next(&registry).await?;
        restarts += 1;
        // A moment of all three.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let so_far = clients.counted();
            eprintln!("{style}: {} answered, {} lost, {restarts} restarts", so_far.answered, so_far.lost());
        }
    }
    let counted = clients.stop().await;
    instances.stop().await?;
    Ok((counted, restarts))
}
