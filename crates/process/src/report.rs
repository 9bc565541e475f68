//! The exit report: what was stopped, how long each step took, what was abandoned.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::state::Trigger;

/// What a step on the stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepKind {
    /// Started by [`App::start`](crate::App::start).
    Part,
    /// Registered by [`App::defer`](crate::App::defer).
    Cleanup,
    /// An async task.
    Task,
    /// Blocking code on a thread.
    Thread,
    /// The async cleanups of futures that were dropped.
    Lane,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
#[non_exhaustive]
pub enum StepOutcome {
    /// It stopped.
    Ok,
    /// Its stop returned an error.
    Failed {
        /// The error with its sources.
        error: String,
    },
    /// Its stop panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// It was cut off at its deadline.
    Abandoned,
}

/// How many requests, messages or connections a step had in flight, where it [said so](crate::StopCx::in_flight).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InFlight {
    /// When its turn came.
    pub at_start: usize,
    /// When it ended; unknown where it was abandoned before.
    pub at_end: Option<usize>,
}

/// One step of the stop.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// The name it was started under.
    pub name: String,
    /// What it is.
    pub kind: StepKind,
    /// `file:line` of its start.
    pub place: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: StepOutcome,
    /// From what began the stop to its turn.
    #[serde(rename = "at_ms", serialize_with = "as_ms")]
    pub at: Duration,
    /// From its turn to its end.
    #[serde(rename = "ms", serialize_with = "as_ms")]
    pub time: Duration,
    /// What it could have taken; a first turn of 50 ms apart.
    #[serde(rename = "limit_ms", serialize_with = "as_ms")]
    pub limit: Duration,
    /// What it had in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<InFlight>,
    /// What the step had to say.
    pub notes: Vec<String>,
    /// What it had to cut off itself, such as requests in flight.
    pub abandoned: Vec<String>,
}

/// What happened from the first trigger to the end. Written as JSON on request
/// (`EPILOGUE_REPORT`, [`Options::report_file`](crate::Options::report_file)).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ExitReport {
    /// Always `epilogue.exit/v1`.
    pub schema: &'static str,
    /// Why the program ended.
    pub trigger: Trigger,
    /// The exit status.
    pub code: u8,
    /// How urgent it became: `graceful`, `hurry`.
    pub level: String,
    /// The whole budget.
    #[serde(rename = "budget_ms", serialize_with = "as_ms")]
    pub budget: Duration,
    /// Where the grace behind the budget comes from.
    pub grace_from: &'static str,
    /// From the trigger to the end of the last step.
    #[serde(rename = "total_ms", serialize_with = "as_ms")]
    pub total: Duration,
    /// The steps in the order in which they were stopped.
    pub steps: Vec<StepReport>,
    /// The body was still running at its limit and was dropped.
    pub body_dropped: bool,
    /// What the body was starting then, or when it panicked, and for how long.
    pub starting: Vec<String>,
    /// Cleanup failures that no result could hold, over the life of the process.
    pub cleanup_failures: u64,
    /// Stop signals in the order they came, and what each did.
    pub signals: Vec<String>,
}

impl ExitReport {
    /// Everything that was cut off: steps, and what steps cut themselves.
    pub fn abandoned(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.body_dropped {
            all.push("the body was still running at its limit".to_owned());
            all.extend(self.starting.iter().map(|start| format!("the start of {start}")));
        }
        for step in &self.steps {
            if step.outcome == StepOutcome::Abandoned {
                let what = match step.limit.is_zero() {
                    true => "had no time left to stop".to_owned(),
                    false => format!("did not stop within {:.1?}", step.limit),
                };
                all.push(format!("{} ({}) {what}", step.name, step.place));
            }
            all.extend(step.abandoned.iter().map(|what| format!("{}: {what}", step.name)));
        }
        all
    }

    /// What all steps together had in flight, when the turn of each came; unknown at the end where one does not know.
    pub fn in_flight(&self) -> Option<InFlight> {
        self.steps.iter().filter_map(|step| step.in_flight).reduce(|all, one| InFlight {
            at_start: all.at_start + one.at_start,
            at_end: all.at_end.zip(one.at_end).map(|(all, one)| all + one),
        })
    }

    /// Whether a step's stop, or a cleanup elsewhere, failed or panicked.
    pub fn failed(&self) -> bool {
        self.cleanup_failures > 0
            || self
                .steps
                .iter()
                .any(|step| matches!(step.outcome, StepOutcome::Failed { .. } | StepOutcome::Panicked { .. }))
    }

    /// What a step that failed said.
    pub(crate) fn failure(step: &StepReport) -> Option<String> {
        match &step.outcome {
            StepOutcome::Failed { error } => Some(format!("{}: {error}", step.name)),
            StepOutcome::Panicked { message } => Some(format!("{} panicked: {message}", step.name)),
            _ => None,
        }
    }

    /// Writes the report as one JSON object. The file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// When the file or its neighbour `<name>.part` cannot be written.
    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        std::fs::write(&part, text)?;
        std::fs::rename(&part, path)
    }
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "epilogue: stopped in {}{} because {}; exit {}",
            short(self.total),
            if self.level == "hurry" { ", in a hurry," } else { "" },
            self.trigger,
            // Whoever called `exit` chose its code; nobody else gets to know it.
            if self.trigger == Trigger::ProcessExit { "as called".to_owned() } else { self.code.to_string() }
        )?;
        if let Trigger::Failed { error: why } | Trigger::Panicked { message: why } = &self.trigger {
            writeln!(f, "  it said: {why}")?;
        }
        if !self.body_dropped && !self.starting.is_empty() {
            writeln!(f, "  it was starting {}", self.starting.join("; "))?;
        }
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
        for step in &self.steps {
            write!(f, "  {:width$}  {:>7}  {}", step.name, short(step.time), step.outcome)?;
            if let Some(in_flight) = step.in_flight {
                write!(f, "; {in_flight}")?;
            }
            for note in &step.notes {
                write!(f, "; {note}")?;
            }
            writeln!(f)?;
        }
        if self.cleanup_failures > 0 {
            let count = self.cleanup_failures;
            writeln!(f, "  failed beside these steps: {count} cleanup(s), reported above when they did")?;
        }
        for what in self.abandoned() {
            writeln!(f, "  abandoned: {what}")?;
        }
        Ok(())
    }
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in flight then", self.at_start)?;
        match self.at_end {
            None => Ok(()),
            Some(left) => write!(f, ", {left} at its end"),
        }
    }
}

impl fmt::Display for StepOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepOutcome::Ok => f.write_str("ok"),
            StepOutcome::Failed { error } => write!(f, "FAILED: {error}"),
            StepOutcome::Panicked { message } => write!(f, "PANICKED: {message}"),
            StepOutcome::Abandoned => f.write_str("ABANDONED"),
        }
    }
}

pub(crate) fn short(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

pub(crate) fn as_ms<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}
