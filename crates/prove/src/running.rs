//! A started target: its process, its marks, its port. Dropped, nothing of it is left.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use epilogue_observe::RING_ENV;

use crate::client::{Ask, Client};
use crate::target::Target;
use crate::{os, procfs};

/// The variable that marks everything a row has started, in its environment.
pub(crate) const RUN_ENV: &str = "EPILOGUE_PROVE_RUN";

const GRACE_ENV: &str = "EPILOGUE_GRACE";
/// Where a program keeps what it owes durably.
const STATE_ENV: &str = "EPILOGUE_STATE_DIR";
const PROBE_LIMIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

/// Where a row lives.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// `{dir}`: the row's own directory.
    pub(crate) dir: PathBuf,
    /// The mark of this row's processes.
    pub(crate) mark: String,
    /// The port, if it is known before the start.
    pub(crate) port: Option<u16>,
}

impl Place {
    /// Fills in `{port}` and `{dir}`.
    pub(crate) fn fill(&self, text: &str) -> String {
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        text.replace("{port}", &port).replace("{dir}", &self.dir.to_string_lossy())
    }

    fn ring(&self, start: u32) -> PathBuf {
        self.dir.join(format!("ring-{start}"))
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn output(&self, start: u32) -> PathBuf {
        self.dir.join(format!("output-{start}.log"))
    }
}

/// A process that was started and is not known to be ready.
pub(crate) struct Running {
    pub(crate) pid: u32,
    pub(crate) started: Instant,
    place: Place,
    start: u32,
    status: Option<ExitStatus>,
    /// Its descendants before the trigger: some may carry no mark.
    family: Vec<procfs::Process>,
}

/// Why a target did not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The program is not there.
    #[error("{program}: no such command; check its path, or whether it is installed")]
    NotFound {
        /// As it was given.
        program: String,
    },
    /// The program cannot be executed.
    #[error("{program}: {source}")]
    Spawn {
        /// As it was given.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{program} ended before it was ready ({how}){output}")]
    Died {
        /// As it was given.
        program: String,
        /// Its exit status.
        how: String,
        /// The last lines it printed.
        output: String,
    },
    /// It did not get ready in time.
    #[error("{program} was not ready within {within:?}: {asked}{output}")]
    NeverReady {
        /// As it was given.
        program: String,
        /// How long it was waited for.
        within: Duration,
        /// What was asked, and what came.
        asked: String,
        /// The last lines it printed.
        output: String,
    },
    /// Somebody else has the port.
    #[error("port {port} is taken by {owner}; stop it, or choose another with --port")]
    PortTaken {
        /// The port.
        port: u16,
        /// Who has it.
        owner: String,
    },
    /// The row's own files.
    #[error("{path}: {source}")]
    Files {
        /// Which.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Running {
    /// Starts the target. `start` counts the starts in one place.
    pub(crate) fn start(
        target: &Target,
        place: &Place,
        start: u32,
        grace: Duration,
    ) -> Result<Running, StartError> {
        let words: Vec<String> = target.command.iter().map(|word| place.fill(word)).collect();
        let (program, arguments) = words.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
        if let Some(port) = place.port {
            refuse_taken(port)?;
        }
        let log = place.output(start);
        let output = |source| StartError::Files { path: log.display().to_string(), source };
        let out = File::create(&log).map_err(output)?;
        let err = out.try_clone().map_err(output)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .env(RUN_ENV, &place.mark)
            .env(RING_ENV, place.ring(start))
            // What it owes durably is for this row alone to be paid.
            .env(STATE_ENV, place.state())
            // A program that knows how to ask is told how long this platform waits.
            .env(GRACE_ENV, format!("{}ms", grace.as_millis()));
        if let Some(port) = place.port {
            command.env("PORT", port.to_string());
        }
        os::isolate(&mut command);
        let child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StartError::NotFound { program: program.to_owned() },
            _ => StartError::Spawn { program: program.to_owned(), source },
        })?;
        Ok(Running {
            pid: child.id(),
            started: Instant::now(),
            place: place.clone(),
            start,
            status: None,
            family: Vec::new(),
        })
    }

    /// Waits until the target answers, and says where.
    pub(crate) async fn ready(&mut self, target: &Target) -> Result<SocketAddr, StartError> {
        let until = self.started + target.ready_within;
        let mut asked = "it listens on no port".to_owned();
        loop {
            if let Some(status) = self.poll_exit() {
                return Err(StartError::Died {
                    program: self.program(target),
                    how: told(status),
                    output: self.last_words(),
                });
            }
            if let Some(port) = self.place.port.or_else(|| self.find_port()) {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let path = target.ready.as_deref().unwrap_or(&target.fast);
                match probe(address, path).await {
                    Ok(status) if target.ready.is_none() || (200..300).contains(&status) => {
                        return Ok(address);
                    }
                    Ok(status) => asked = format!("{address}{path} answered {status}"),
                    Err(why) => asked = format!("{address}{path}: {why}"),
                }
            }
            if Instant::now() >= until {
                return Err(StartError::NeverReady {
                    program: self.program(target),
                    within: target.ready_within,
                    asked,
                    output: self.last_words(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The exit status, once it has ended.
    pub(crate) fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = os::reap(self.pid);
        }
        self.status
    }

    /// Remembers what it has started so far: a child with an environment of its own is known only
    /// by its parent, and only while that lives.
    pub(crate) fn note_family(&mut self) {
        self.family = procfs::descendants(self.pid);
    }

    /// Everything alive that this row has started.
    pub(crate) fn alive(&self) -> Vec<u32> {
        let mut alive = procfs::marked(RUN_ENV, &self.place.mark);
        alive.extend(self.family.iter().filter(|process| process.lives()).map(|process| process.pid));
        alive.sort_unstable();
        alive.dedup();
        alive
    }

    /// Whether the listener on this port belongs to this process or what it started.
    pub(crate) fn owns_port(&self, port: u16) -> bool {
        let inodes = procfs::listeners(port);
        let mut family = self.alive();
        family.push(self.pid);
        family.iter().any(|pid| {
            let open = procfs::open_sockets(*pid);
            inodes.iter().any(|inode| open.contains(inode))
        })
    }

    /// How many durable cleanups ran after the death of the program that owed them.
    pub(crate) fn paid_after_death(&self) -> u64 {
        let paid = epilogue_guardian::past(&self.place.state());
        paid.iter().map(|past| past.ran as u64).sum()
    }

    /// What the program recorded of its cleanups, if it is one that does.
    pub(crate) fn ring(&self) -> Option<epilogue_observe::Snapshot> {
        epilogue_observe::Snapshot::read(&self.place.ring(self.start)).ok()
    }

    /// The last lines it printed, ready to be put behind a message.
    pub(crate) fn last_words(&self) -> String {
        let bytes = std::fs::read(self.place.output(self.start)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        if last.is_empty() {
            "; it printed nothing".to_owned()
        } else {
            format!("; it printed:\n    {}", last.join("\n    "))
        }
    }

    /// Ends everything this row has started, at once, and waits until it is gone.
    pub(crate) fn end_all(&mut self) {
        if self.poll_exit().is_none() {
            os::kill(self.pid, libc::SIGKILL);
        }
        for process in self.family.iter().filter(|process| process.lives()) {
            os::kill(process.pid, libc::SIGKILL);
            os::reap(process.pid);
        }
        end_marked(&self.place.mark);
        let until = Instant::now() + Duration::from_secs(2);
        while self.poll_exit().is_none() && Instant::now() < until {
            // Killed processes go within microseconds, large ones within milliseconds.
            std::thread::yield_now();
        }
    }

    fn find_port(&self) -> Option<u16> {
        let mut family = self.alive();
        family.push(self.pid);
        let open: Vec<_> = family.iter().map(|pid| procfs::open_sockets(*pid)).collect();
        let mut ports: Vec<u16> = procfs::sockets()
            .into_iter()
            .filter(|socket| socket.listens && open.iter().any(|fds| fds.contains(&socket.inode)))
            .map(|socket| socket.local.port())
            .collect();
        ports.sort_unstable();
        ports.first().copied()
    }

    fn program(&self, target: &Target) -> String {
        target.command.first().cloned().unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Ends every process with this mark, also those that are being forked meanwhile.
pub(crate) fn end_marked(mark: &str) -> Vec<String> {
    let mut ended = Vec::new();
    for _ in 0..50 {
        let alive = procfs::marked(RUN_ENV, mark);
        if alive.is_empty() {
            break;
        }
        for pid in alive {
            let what = procfs::command_line(pid);
            if os::kill(pid, libc::SIGKILL) {
                ended.push(format!("pid {pid} {what}"));
            }
            os::reap(pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    ended
}

/// An exit status in words: `exit 0`, `SIGKILL`.
pub(crate) fn told(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    how_ended(status.code(), status.signal())
}

/// The same, of an exit code or the number of a signal.
pub(crate) fn how_ended(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => signal_name(signal),
        (None, None) => "unknown".to_owned(),
    }
}

/// The name of a signal, or its number.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGABRT => "SIGABRT",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGTERM => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    name.to_owned()
}

async fn probe(address: SocketAddr, path: &str) -> Result<u16, String> {
    let mut client =
        Client::connect(address, PROBE_LIMIT).await.map_err(|outcome| outcome.name().to_owned())?;
    let answer = client.ask(&Ask::get(path), PROBE_LIMIT, || {}).await;
    answer.map(|answer| answer.status).map_err(|outcome| outcome.name().to_owned())
}

/// The status that a path answers with, or nothing.
pub(crate) async fn status_of(address: SocketAddr, path: &str) -> Option<u16> {
    probe(address, path).await.ok()
}

fn refuse_taken(port: u16) -> Result<(), StartError> {
    let inodes = procfs::listeners(port);
    if inodes.is_empty() {
        return Ok(());
    }
    let owner = match procfs::owner_of(&inodes) {
        Some(pid) => format!("pid {pid} ({})", procfs::command_line(pid)),
        None => "another process".to_owned(),
    };
    Err(StartError::PortTaken { port, owner })
}

/// The files below a directory, relative to it; sockets and other special files as well.
pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}
