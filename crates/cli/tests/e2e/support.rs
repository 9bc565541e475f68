//! What the tests share.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// One test at a time.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of the test's own, removed with it. It is also the `TMPDIR` of what the test runs,
/// so that no other run of the command is seen or swept.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("epilogue-e2e-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// `epilogue` with these arguments, its files in this directory.
    pub(crate) fn epilogue(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_epilogue"));
        command
            .args(arguments)
            .current_dir(&self.0)
            .env("TMPDIR", &self.0)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null());
        command
    }

    /// Runs `epilogue prove` to its end and reads its report.
    pub(crate) fn prove(&self, arguments: &[&str]) -> Proved {
        let json = self.0.join("report.json");
        let mut all = vec!["prove", "--json", json.to_str().unwrap()];
        all.extend(arguments);
        let output = self.epilogue(&all).output().unwrap();
        let report = std::fs::read(&json).unwrap_or_else(|error| {
            panic!("no report: {error}; stderr: {}", String::from_utf8_lossy(&output.stderr))
        });
        Proved { report: serde_json::from_slice(&report).unwrap(), output }
    }

    /// The directories of runs that are there.
    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        let base = std::fs::read_dir(&self.0).unwrap().flatten();
        let base = base.map(|e| e.path()).find(|p| p.to_string_lossy().contains("epilogue-prove-"));
        let entries = base.into_iter().flat_map(|base| std::fs::read_dir(base).unwrap().flatten());
        let kept = ["ports", "reports"];
        entries.map(|e| e.path()).filter(|p| !kept.iter().any(|k| p.ends_with(k))).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) struct Proved {
    pub(crate) report: Value,
    pub(crate) output: Output,
}

impl Proved {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// The rows of a target.
    pub(crate) fn rows(&self, target: &str) -> &[Value] {
        let targets = self.report["targets"].as_array().unwrap();
        targets.iter().find(|found| found["name"] == target).unwrap()["rows"].as_array().unwrap()
    }

    pub(crate) fn row(&self, target: &str, trigger: &str) -> &Value {
        self.rows(target).iter().find(|row| row["trigger"] == trigger).unwrap()
    }
}

/// Of these counts, how many are neither an answer nor safe to send again.
pub(crate) fn lost(counts: &Value) -> u64 {
    let safe = ["ok", "ok_close", "closed_before_send", "closed_unread"];
    let all = counts.as_object().unwrap();
    all.iter().filter(|(name, _)| !safe.contains(&name.as_str())).map(|(_, n)| n.as_u64().unwrap()).sum()
}

/// Processes with a variable of this value in their environment.
pub(crate) fn marked(variable: &str, value: &str) -> Vec<i32> {
    let mark = format!("{variable}={value}");
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
        .collect()
}

pub(crate) fn signal(child: &Child, number: i32) {
    // SAFETY: no memory is passed; the child was not waited for, so its pid is its own.
    assert_eq!(unsafe { libc::kill(i32::try_from(child.id()).unwrap(), number) }, 0);
}
