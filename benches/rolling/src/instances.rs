//! Three instances of the service, of which one is replaced at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use epilogue_testkit::RegistryServer;
use tokio::process::{Child, Command};

const COUNT: u16 = 3;

pub(crate) struct Instances {
    program: PathBuf,
    style: String,
    dir: PathBuf,
    running: Vec<(u16, Child)>,
    next: usize,
}

impl Instances {
    pub(crate) async fn start(
        program: &Path,
        style: &str,
        registry: &RegistryServer,
    ) -> io::Result<Instances> {
        let dir = std::env::temp_dir().join(format!("epilogue-rolling-{}-{style}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let (program, style) = (program.to_owned(), style.to_owned());
        let mut instances = Instances { program, style, dir, running: Vec::new(), next: 0 };
        for _ in 0..COUNT {
            let port = free_port()?;
            let child = instances.spawn(port, registry)?;
            instances.running.push((port, child));
            until_listed(registry, port).await?;
        }
        Ok(instances)
    }

    fn spawn(&self, port: u16, registry: &RegistryServer) -> io::Result<Child> {
        let at = |name: &str| self.dir.join(format!("{port}-{name}"));
        Command::new(&self.program)
            .args(["--style", &self.style, "--port", &port.to_string()])
            .args(["--registry", &registry.nacos(), "--registry-poll", "1"])
            .arg("--data")
            .arg(at("data"))
            .arg("--run")
            .arg(at("run"))
            .env("EPILOGUE_STATE_DIR", at("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(at("said"))?)
            .kill_on_drop(true)
            .spawn()
    }

    /// Stops one as a platform does, and starts it anew.
    pub(crate) async fn restart_next(&mut self, registry: &RegistryServer) -> io::Result<()> {
        let at = self.next % self.running.len();
        self.next += 1;
        let (port, child) = &mut self.running[at];
        let port = *port;
        end(child).await?;
        self.running[at].1 = self.spawn(port, registry)?;
        until_listed(registry, port).await
    }

    pub(crate) async fn stop(mut self) -> io::Result<()> {
        for (_, child) in &mut self.running {
            end(child).await?;
        }
        std::fs::remove_dir_all(&self.dir)
    }
}

async fn end(child: &mut Child) -> io::Result<()> {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // SAFETY: no memory is passed; the child was not waited for, so its pid is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("an instance ended with {status}"))) }
}

/// Outside the range from which the system takes ports by itself.
fn free_port() -> io::Result<u16> {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (20_000..30_000)
        .filter(|port| port % 7 == 0)
        .find(free)
        .ok_or_else(|| io::Error::other("no port is free between 20000 and 30000"))
}

async fn until_listed(registry: &RegistryServer, port: u16) -> io::Result<()> {
    let began = Instant::now();
    while !registry.instances("orders").iter().any(|instance| instance.port() == port) {
        if began.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other(format!(
                "the instance on port {port} did not register within 20 s"
            )));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
