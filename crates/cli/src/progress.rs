//! What is shown while rows are run: a line per finished row, and on a terminal one line that
//! says what is being done now. All of it on stderr.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use epilogue_prove::{Progress, Verdict};

/// Shows progress.
pub(crate) struct Shown {
    live: bool,
    quiet: bool,
    began: Instant,
    stages: Mutex<BTreeMap<String, String>>,
}

impl Shown {
    /// Shows nothing when `quiet`; a live line only on a terminal.
    pub(crate) fn new(quiet: bool) -> Shown {
        Shown {
            live: std::io::stderr().is_terminal(),
            quiet,
            began: Instant::now(),
            stages: Mutex::default(),
        }
    }

    /// Takes note of what happened.
    pub(crate) fn note(&self, progress: Progress<'_>) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::CleanedUp(line) => self.line(&format!("epilogue: {line}")),
            Progress::Stage { target, trigger, stage } => {
                stages.insert(target.to_owned(), format!("{trigger} {target}: {stage}"));
            }
            Progress::Again { target, trigger, why } => {
                self.line(&format!("{trigger} {target}: once more: {why}"));
            }
            Progress::Done { target, row, done, of } => {
                stages.remove(target);
                let verdict = match row.verdict {
                    Verdict::Pass => "pass",
                    Verdict::Fail if row.known.is_some() => "known to fail",
                    Verdict::Fail => "fail",
                    Verdict::Inconclusive => "inconclusive",
                    _ => "skipped",
                };
                let at = self.began.elapsed().as_secs();
                self.line(&format!("[{done:>2}/{of}] {at:>3} s  {:<13} {target}: {verdict}", row.trigger));
            }
            _ => {}
        }
        self.live_line(&stages);
    }

    /// Takes the live line away.
    pub(crate) fn finish(&self) {
        self.live_line(&BTreeMap::new());
    }

    fn line(&self, text: &str) {
        if self.quiet {
            return;
        }
        let clear = if self.live { "\r\x1b[K" } else { "" };
        // A closed stderr has nobody to show anything to.
        let _ = writeln!(std::io::stderr(), "{clear}{text}");
    }

    fn live_line(&self, stages: &BTreeMap<String, String>) {
        if !self.live || self.quiet {
            return;
        }
        let now: Vec<&str> = stages.values().map(String::as_str).collect();
        let now: String = now.join(" | ").chars().take(78).collect();
        let _ = write!(std::io::stderr(), "\r\x1b[K{now}");
        let _ = std::io::stderr().flush();
    }
}
