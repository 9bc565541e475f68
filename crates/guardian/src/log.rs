//! What was tried, beside the journal; and what is left of a run once it is paid: one line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epilogue_journal::{Ended, Entry};
use serde::{Deserialize, Serialize};

use crate::child::OUTPUT_MAX;
use crate::pay::{Report, Runner};
use crate::run::{Run, now_ms};

/// One attempt at one cleanup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it was over, in milliseconds since 1970.
    pub at_ms: u64,
    /// The record.
    pub id: u64,
    /// What it does.
    pub what: String,
    /// Who tried.
    pub by: Runner,
    /// done, failed, parked or skipped; an operator's word: retried or dropped.
    pub outcome: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What it printed: the last 64 KiB.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// A run that was paid, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// When it was paid, in milliseconds since 1970.
    pub at_ms: u64,
    /// The run.
    pub run: String,
    /// Its name.
    pub name: String,
    /// Its command.
    pub command: Vec<String>,
    /// How its owner ended.
    pub ended: String,
    /// Who paid.
    pub by: Runner,
    /// What came of it. Of more than twenty cleanups that ran, the first twenty.
    pub report: Report,
    /// How many ran.
    pub ran: usize,
}

const KEPT_RUNS: usize = 1000;
const KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
const NAMED: usize = 20;

/// Where attempts are noted. What cannot be written is not noted: payment goes on.
pub(crate) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
}

impl Log {
    pub(crate) fn of(dir: Option<&Path>) -> Log {
        Log { path: dir.map(|dir| dir.join("log")), file: None }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one line")]
    pub(crate) fn attempt(
        &mut self,
        entry: &Entry,
        by: Runner,
        what: &str,
        outcome: &str,
        why: Option<&str>,
        output: &str,
        took: Duration,
    ) {
        let attempt = Attempt {
            at_ms: now_ms(),
            id: entry.id,
            what: what.into(),
            by,
            outcome: outcome.into(),
            why: why.map(Into::into),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            output: output.chars().take(OUTPUT_MAX).collect(),
        };
        let Ok(mut line) = serde_json::to_vec(&attempt) else { return };
        line.push(b'\n');
        if self.file.is_none() {
            self.file = self.path.as_deref().and_then(|path| append_to(path).ok());
        }
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&line);
        }
    }
}

/// The attempts that were noted for a run, oldest first.
pub fn attempts(dir: &Path) -> Vec<Attempt> {
    lines(&dir.join("log"))
}

/// What is noted of a record whose attempts an operator has set to none.
pub(crate) const RETRIED: &str = "retried";

/// How many attempts at a record have failed since it was last put back.
pub(crate) fn failures(dir: &Path, id: u64) -> usize {
    let tried = attempts(dir);
    let of_it = tried.iter().rev().filter(|tried| tried.id == id);
    of_it.take_while(|tried| tried.outcome != RETRIED).filter(|tried| tried.outcome == "failed").count()
}

/// Why a record was parked.
pub(crate) fn why_parked(dir: &Path, id: u64) -> Option<String> {
    let mut tried = attempts(dir);
    tried.retain(|attempt| attempt.id == id && attempt.outcome == "parked");
    tried.pop()?.why
}

/// Runs that were paid, oldest first.
pub fn past(home: &Path) -> Vec<Past> {
    lines(&home.join("history"))
}

/// How an owner ended, in words.
pub fn ended_words(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exited with {code}"),
        Ended::Signalled(signal) => format!("was killed by {}", signal_name(signal)),
        _ => "ended, nobody saw how".into(),
    }
}

/// The name of a signal.
pub fn signal_name(signal: u8) -> String {
    const NAMES: [(i32, &str); 16] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGXCPU, "SIGXCPU"),
    ];
    let known = NAMES.iter().find(|(number, _)| *number == i32::from(signal));
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// Notes that a run was paid. Only where there was something to pay.
pub(crate) fn remember(run: &Run, ended: Ended, by: Runner, report: &Report) {
    if report.total() + report.skipped.len() == 0 {
        return;
    }
    let Some(home) = run.dir.parent() else { return };
    let mut short = report.clone();
    short.ran.truncate(NAMED);
    short.skipped.truncate(NAMED);
    let past = Past {
        at_ms: now_ms(),
        run: run.short().into(),
        name: run.meta().name.clone(),
        command: run.meta().command.clone(),
        ended: ended_words(ended),
        by,
        ran: report.ran.len(),
        report: short,
    };
    let Ok(mut line) = serde_json::to_vec(&past) else { return };
    line.push(b'\n');
    let path = home.join("history");
    if append_to(&path).and_then(|mut file| file.write_all(&line)).is_ok() {
        let _ = trim(&path);
    }
}

/// Keeps the history short. Rarely, and by whoever gets the lock.
fn trim(path: &Path) -> io::Result<()> {
    let lines: Vec<Past> = lines(path);
    let oldest = now_ms().saturating_sub(KEPT_MS);
    let old = lines.iter().take_while(|past| past.at_ms < oldest).count();
    // With some slack: not at every run.
    if old < 64 && lines.len() < KEPT_RUNS + 64 {
        return Ok(());
    }
    let lock = append_to(&path.with_extension("lock"))?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    let kept = &lines[old.max(lines.len().saturating_sub(KEPT_RUNS))..];
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    for past in kept {
        serde_json::to_writer(&mut file, past)?;
        file.write_all(b"\n")?;
    }
    fs::rename(draft, path)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Vec<T> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    // A line that was cut by a full disk is left out.
    BufReader::new(file)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect()
}
