//! A program that is ended from outside: this very test binary once more, as the program that `program` names.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = "EPILOGUE_TEST_PROGRAM";
pub(crate) const FILE: &str = "EPILOGUE_TEST_FILE";

/// A program that has said that it is ready, and the file it owes the removal of.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: BufReader<std::process::ChildStdout>,
    pub(crate) file: PathBuf,
}

pub(crate) fn command(program: &str, before: &[&str]) -> (Command, PathBuf) {
    let exe = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = before.iter().map(Into::into).collect();
    words.push(exe.into());
    let mut command = Command::new(&words[0]);
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let file = std::env::temp_dir().join(format!("epilogue-signals-{}-{test}", std::process::id()));
    command
        .args(&words[1..])
        .args(["--exact", "program", "--nocapture", "--test-threads=1"])
        .env(PROGRAM, program)
        .env(FILE, &file)
        .env_remove("EPILOGUE_GRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    (command, file)
}

pub(crate) fn start(program: &str) -> Running {
    start_as(program, &[], &[])
}

pub(crate) fn start_as(program: &str, before: &[&str], environment: &[(&str, &str)]) -> Running {
    let (mut command, file) = command(program, before);
    let mut running = Running::of(command.envs(environment.iter().copied()).spawn().unwrap(), file);
    running.wait_for("ready");
    running
}

impl Running {
    pub(crate) fn of(mut child: Child, file: PathBuf) -> Running {
        let lines = BufReader::new(child.stdout.take().unwrap());
        Running { child, lines, file }
    }

    pub(crate) fn wait_for(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "ended before it said {wanted:?}");
        }
    }

    pub(crate) fn signal(&self, number: i32) {
        signal(self.child.id(), number);
    }

    /// Reads what it says on stderr until it has said this; all that was said.
    pub(crate) fn wait_to_hear(&mut self, wanted: &str) -> String {
        let stderr = self.child.stderr.as_mut().unwrap();
        let mut said = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&said).contains(wanted) {
            let read = stderr.read(&mut byte).unwrap();
            assert!(read > 0, "ended before it said {wanted:?}: {}", String::from_utf8_lossy(&said));
            said.extend_from_slice(&byte);
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// How it ended, how long that took, and what it said.
    pub(crate) fn end(mut self) -> (ExitStatus, Duration, String) {
        let began = Instant::now();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        (status, began.elapsed(), said)
    }
}

pub(crate) fn signal(pid: u32, number: i32) {
    // SAFETY: no memory is passed; the child was not waited for, so its pid is its own.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), number) }, 0);
}

/// Longer than the de-bounce.
pub(crate) fn a_person_waits() {
    std::thread::sleep(Duration::from_millis(600));
}
