//! The program that owes something, in a directory of its own.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Rig {
    pub(crate) dir: PathBuf,
}

impl Rig {
    pub(crate) fn new(name: &str) -> Rig {
        let dir = std::env::temp_dir().join(format!("epilogue-owes-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Rig { dir }
    }

    pub(crate) fn program() -> PathBuf {
        // Beside the tests, where cargo has put it.
        let this = std::env::current_exe().unwrap();
        let owes = this.parent().unwrap().parent().unwrap().join("examples/owes");
        assert!(owes.exists(), "not built: cargo build -p epilogue-durable --examples");
        owes
    }

    pub(crate) fn command(&self, way: &str) -> Command {
        let mut command = Command::new(Rig::program());
        command.arg(way).arg(&self.dir).env("EPILOGUE_STATE_DIR", self.dir.join("state"));
        command.env_remove("EPILOGUE_RING").env_remove("EPILOGUE_SCOPE");
        command
    }

    /// Starts it, and waits until it says a word.
    pub(crate) fn start(&self, way: &str, word: &str) -> Child {
        let mut child = self.command(way).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == word), "{way}: {word}");
        child
    }

    pub(crate) fn ran(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.join("ran")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join("state")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.join("journal").exists()).collect()
    }

    /// Until the guardian has taken the run away.
    pub(crate) fn wait_paid(&self) {
        wait_until("everything is paid", || self.runs().is_empty());
    }

    pub(crate) fn guardians(&self) -> Vec<u32> {
        let mark = format!("EPILOGUE_GUARDIAN={}", self.dir.display());
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
            })
            .collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

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
