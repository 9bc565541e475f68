//! A directory of its own for each test, and the commands in it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Rig {
    pub(crate) dir: PathBuf,
}

impl Rig {
    pub(crate) fn new(name: &str) -> Rig {
        let dir = std::env::temp_dir().join(format!("epilogue-durable-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("work")).unwrap();
        Rig { dir }
    }

    /// Where scripts run, and leave what they leave.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Lets another user have all of it.
    pub(crate) fn give_to(&self, user: u32) {
        for path in [self.work(), self.dir.clone()] {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
    }

    /// A command with the `epilogue` under test first on its PATH.
    pub(crate) fn command(&self, program: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_epilogue"));
        let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command
            .env("PATH", path)
            .env("EPILOGUE_STATE_DIR", self.state())
            .env("TMPDIR", self.work())
            .env_remove("EPILOGUE_SCOPE")
            .current_dir(self.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `epilogue run OPTIONS -- bash -c SCRIPT`.
    pub(crate) fn run(&self, options: &[&str], script: &str) -> Ran {
        Ran(self.wrapped(options, script).output().unwrap())
    }

    pub(crate) fn wrapped(&self, options: &[&str], script: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_epilogue"));
        command.arg("run").args(options).args(["--", "bash", "-c", script]);
        command
    }

    /// `epilogue ARGUMENTS`.
    pub(crate) fn epilogue(&self, arguments: &[&str]) -> Ran {
        Ran(self.command(env!("CARGO_BIN_EXE_epilogue")).args(arguments).output().unwrap())
    }

    /// What the scripts have left, but for files that tests write on purpose.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = std::fs::read_dir(self.work())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("note"))
            .collect();
        left.sort();
        left
    }

    /// Runs that are still there.
    pub(crate) fn runs(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.state()) else { return 0 };
        entries.flatten().filter(|entry| entry.path().join("journal").exists()).count()
    }

    pub(crate) fn wait_for(&self, name: &str) {
        wait_until(&format!("{name} is there"), || self.path(name).exists());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) struct Ran(pub(crate) Output);

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or_else(|| panic!("{:?}: {}", self.0.status, self.stderr()))
    }

    pub(crate) fn signal(&self) -> Option<i32> {
        self.0.status.signal()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

/// Waits for a condition, not for a time.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn kill(pid: u32, signal: i32) {
    // SAFETY: no memory is passed.
    unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) };
}

pub(crate) fn is_there(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Guardians of this rig's runs: they are told the run in their environment as they begin.
pub(crate) fn guardians(rig: &Rig) -> Vec<u32> {
    let mark = format!("EPILOGUE_GUARDIAN={}", rig.state().display());
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        })
        .filter(|pid| is_there(*pid))
        .collect()
}

pub(crate) fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Whether this machine lets tests do what only root may.
pub(crate) fn root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

pub(crate) fn skipped(why: &str) {
    eprintln!("skipped({why})");
}
