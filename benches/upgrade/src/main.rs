//! Generations of a service that take over each other's listener, under load of HTTP/1.1 and HTTP/2.
//!
//! The clients keep their connections as long as they are let, ask on each at least twice a second, and honour
//! `Connection: close` and GOAWAY. They never ask twice: a request that was sent and not answered is lost. The
//! service is registered, and every look at the registry has to find it.

mod clients;
mod service;

use std::io;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use epilogue_testkit::RegistryServer;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use clients::Clients;

/// Generations of a service that take over each other's listener under load: what is lost.
#[derive(Parser)]
enum Program {
    /// The load, and the upgrades
    Load(Load),
    /// The service itself
    #[command(hide = true)]
    Serve(service::Settings),
}

#[derive(Parser)]
struct Load {
    /// How many requests are to be answered
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// How many upgrades there are at least
    #[arg(long, default_value_t = 6)]
    upgrades: u32,
    /// How many connections of each protocol there are at the same time
    #[arg(long, default_value_t = 12)]
    connections: usize,
}

fn main() -> ExitCode {
    match Program::parse() {
        Program::Serve(settings) => service::serve(&settings),
        Program::Load(load) => match measure(&load) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("upgrade: {error}");
                ExitCode::from(5)
            }
        },
    }
}

/// How many requests were lost.
#[tokio::main]
async fn measure(load: &Load) -> io::Result<u64> {
    let registry = RegistryServer::start().await?;
    let mut service = Service::start(&registry)?;
    let port = service.next_port().await?;
    let clients = Clients::start(port, load.connections);
    let mut told = Instant::now();
    let mut upgrades = 0;
    let mut unlisted = 0;
    while clients.answered() < load.requests || upgrades < load.upgrades {
        service.upgrade().await?;
        upgrades += 1;
        // Long enough for the one before to have gone.
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            unlisted += u32::from(registry.instances("service").len() != 1);
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            eprintln!("{} answered, {} lost, {upgrades} upgrades", clients.answered(), clients.lost());
        }
    }
    let counted = clients.stop().await;
    service.stop().await?;
    println!("protocol  requests  lost  of which");
    for (protocol, one) in &counted {
        let kinds: Vec<String> = one.lost.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        println!("{protocol:8}  {:8}  {:4}  {}", one.all(), one.all() - one.answered, kinds.join(", "));
    }
    println!("upgrades {upgrades}, looks at the registry that did not find it: {unlisted}");
    Ok(counted.iter().map(|(_, one)| one.all() - one.answered).sum::<u64>() + u64::from(unlisted))
}

/// The service, whichever generation of it.
struct Service {
    first: Child,
    pid: u32,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Service {
    fn start(registry: &RegistryServer) -> io::Result<Service> {
        let mut first = Command::new(std::env::current_exe()?)
            .args(["serve", "--registry", &registry.nacos()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = first.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        let pid = first.id().ok_or_else(|| io::Error::other("it has ended"))?;
        Ok(Service { first, pid, lines: BufReader::new(stdout).lines() })
    }

    /// Where the next generation says that it listens; from then on it is the one.
    async fn next_port(&mut self) -> io::Result<u16> {
        let said = tokio::time::timeout(Duration::from_secs(20), self.lines.next_line()).await;
        let line = said.map_err(io::Error::other)??.unwrap_or_default();
        let (pid, port) = line.split_once(' ').unwrap_or_default();
        let wrong = |_| io::Error::other(format!("the service said {line:?}"));
        self.pid = pid.parse().map_err(wrong)?;
        port.parse().map_err(wrong)
    }

    async fn upgrade(&mut self) -> io::Result<()> {
        signal(self.pid, libc::SIGUSR2);
        self.next_port().await.map(drop)
    }

    async fn stop(mut self) -> io::Result<()> {
        signal(self.pid, libc::SIGTERM);
        // Until the last generation has let go of it.
        while self.lines.next_line().await?.is_some() {}
        let status = self.first.wait().await?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
    }
}

fn signal(pid: u32, number: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: no memory is passed; the pid is that of a generation that has said it and was not told to go.
        unsafe { libc::kill(pid, number) };
    }
}
