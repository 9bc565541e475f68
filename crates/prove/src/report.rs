//! The report, as JSON. Its fields are stable: fields may be added, none is renamed or removed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::judge::Verdict;
use crate::outcome::{Counts, Outcome};
use crate::row::{Conditions, Observation};
use crate::target::Target;
use crate::trigger::Trigger;

/// All that was proved, `epilogue.prove/v1`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Always `epilogue.prove/v1`.
    pub schema: &'static str,
    /// The programs, in the order in which they were given.
    pub targets: Vec<TargetReport>,
    /// Under which conditions.
    pub conditions: ConditionsReport,
}

/// The conditions of all rows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ConditionsReport {
    /// How long requests kept coming after termination began.
    pub lag_ms: u64,
    /// How long the platform waited before the kill.
    pub grace_ms: u64,
}

/// One program.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TargetReport {
    /// Its name.
    pub name: String,
    /// Program and arguments, as given.
    pub command: Vec<String>,
    /// One row per trigger.
    pub rows: Vec<Row>,
}

/// One program ended in one way.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The way.
    pub trigger: &'static str,
    /// What is said of it.
    pub verdict: Verdict,
    /// Why; empty for a plain pass.
    pub reason: String,
    /// Why this row is known to fail, if it is: it does not make the result a failure.
    pub known: Option<String>,
    /// How it ended; all null if it kept serving, or was not run.
    pub exit: ExitReport,
    /// Requests that were in flight.
    pub in_flight: Counts,
    /// Requests on idle connections.
    pub idle: Counts,
    /// Requests on new connections within the lag.
    pub arrivals: Counts,
    /// Requests on pooled connections within the lag.
    pub pool: Counts,
    /// How often the row was run.
    pub runs: u32,
    /// How it is known that the requests were in flight.
    pub proof: String,
    /// How the load generator fared.
    pub generator: GeneratorReport,
    /// What the preStop hook took.
    pub prestop_ms: u64,
    /// Acknowledged writes.
    pub ledger: Option<LedgerReport>,
    /// Registered cleanups.
    pub cleanups: Option<CleanupsReport>,
    /// What stayed.
    pub leaks: Vec<LeakReport>,
    /// From the new start to the first answer of the new instance.
    pub restart_ms: Option<u64>,
    /// When readiness turned, after termination began.
    pub readiness_off_ms: Option<u64>,
    /// When the listener closed, after termination began.
    pub listener_closed_ms: Option<u64>,
    /// Cells with nothing to show, and why.
    pub not_exercised: BTreeMap<&'static str, String>,
    /// Requests since the trigger, in bins of 100 ms.
    pub timeline: Vec<Bin>,
    /// What the program recorded since the trigger: milliseconds, event.
    pub events: Vec<(i64, String)>,
}

/// How a program ended.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct ExitReport {
    /// Its exit code.
    pub code: Option<i32>,
    /// The number of the signal it died of.
    pub signal: Option<i32>,
    /// How long it took, from the beginning of termination.
    pub ms: Option<u64>,
}

/// How the load generator fared.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct GeneratorReport {
    /// How late it was, in 99 of 100 requests at most.
    pub late_p99_ms: f64,
    /// Requests it could not send.
    pub unsent: u32,
}

/// What became of acknowledged writes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LedgerReport {
    /// Acknowledged.
    pub acked: u32,
    /// Read back after the restart.
    pub recovered: u32,
    /// Acknowledged and gone.
    pub lost: u32,
    /// Nobody knows.
    pub indeterminate: u32,
}

/// What became of registered cleanups.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CleanupsReport {
    /// To be run.
    pub registered: u64,
    /// Ran.
    pub run: u64,
    /// Ran when the program was gone: durable cleanups, by whoever pays for the dead.
    pub run_later: u64,
    /// Did not.
    pub pending: u64,
    /// Ran, and failed or panicked.
    pub failed: u64,
    /// The names of what the program itself did not run, newest first.
    pub owed: Vec<String>,
}

/// Something that stayed.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LeakReport {
    /// `file`, `socket`, `port` or `child`.
    pub kind: &'static str,
    /// Which, and whose.
    pub what: String,
}

/// A tenth of a second.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Bin {
    /// Its beginning, after the trigger.
    pub at_ms: i64,
    /// Requests that got their answer.
    pub ok: u32,
    /// Requests that were lost.
    pub lost: u32,
    /// Requests that were not answered, and that their client can safely send again.
    pub retry_safe: u32,
}

impl Report {
    pub(crate) fn new(conditions: &Conditions, targets: Vec<TargetReport>) -> Report {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Report {
            schema: "epilogue.prove/v1",
            targets,
            conditions: ConditionsReport { lag_ms: ms(conditions.lag), grace_ms: ms(conditions.grace) },
        }
    }

    /// Writes the report as JSON. The file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// When the file or its neighbour `<name>.part` cannot be written.
    pub fn write_json(&self, path: &Path) -> io::Result<()> {
        write_whole(path, self.to_json()?.as_bytes())
    }

    /// The report as JSON text.
    ///
    /// # Errors
    ///
    /// Never in practice: the report holds nothing that JSON cannot.
    pub fn to_json(&self) -> io::Result<String> {
        Ok(serde_json::to_string_pretty(self).map_err(io::Error::other)? + "\n")
    }

    /// Writes the report as one self-contained HTML page. The file appears whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`write_json`](Report::write_json).
    pub fn write_html(&self, path: &Path) -> io::Result<()> {
        write_whole(path, crate::html::page(self)?.as_bytes())
    }
}

impl TargetReport {
    pub(crate) fn new(target: &Target, rows: Vec<Row>) -> TargetReport {
        TargetReport { name: target.name.clone(), command: target.command.clone(), rows }
    }

    /// Whether some expectation of this target did not hold. Rows that are known to fail do not
    /// count.
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Fail && row.known.is_none())
    }

    /// Whether nothing can be said of some row.
    pub fn inconclusive(&self) -> bool {
        self.rows.iter().any(|row| row.verdict == Verdict::Inconclusive)
    }

    /// Whether no way out could be tried at all.
    pub fn is_untried(&self) -> bool {
        self.rows.iter().all(|row| row.verdict == Verdict::Skipped)
    }

    /// Requests lost, over all rows.
    pub fn requests_lost(&self) -> u32 {
        let lost = |row: &Row| row.in_flight.lost() + row.idle.lost() + row.arrivals.lost() + row.pool.lost();
        self.rows.iter().map(lost).sum()
    }

    /// Things that stayed, over all rows.
    pub fn leaks(&self) -> usize {
        self.rows.iter().map(|row| row.leaks.len()).sum()
    }
}

impl Row {
    /// Requests lost, of all kinds.
    pub fn requests_lost(&self) -> u32 {
        self.in_flight.lost() + self.idle.lost() + self.arrivals.lost() + self.pool.lost()
    }

    pub(crate) fn skipped(trigger: Trigger, why: String) -> Row {
        let mut row = Row::new(trigger, Verdict::Skipped, why, 0, Observation::default(), None);
        row.proof = "not run".into();
        row
    }

    pub(crate) fn failed(trigger: Trigger, why: String, runs: u32) -> Row {
        Row::new(trigger, Verdict::Fail, why, runs, Observation::default(), None)
    }

    pub(crate) fn new(
        trigger: Trigger,
        verdict: Verdict,
        reason: String,
        runs: u32,
        seen: Observation,
        known: Option<String>,
    ) -> Row {
        let exit = seen.exit.map_or_else(ExitReport::default, |exit| ExitReport {
            code: exit.code,
            signal: exit.signal,
            ms: Some(exit.ms),
        });
        Row {
            trigger: trigger.name(),
            verdict,
            reason,
            known,
            exit,
            timeline: bins(&seen.timeline),
            in_flight: seen.in_flight,
            idle: seen.idle,
            arrivals: seen.arrivals,
            pool: seen.pool,
            runs,
            proof: seen.proof,
            generator: GeneratorReport { late_p99_ms: seen.late_p99_ms, unsent: seen.unsent },
            prestop_ms: seen.prestop_ms,
            ledger: seen.ledger.map(|ledger| LedgerReport {
                acked: ledger.acked,
                recovered: ledger.recovered,
                lost: ledger.lost,
                indeterminate: ledger.indeterminate,
            }),
            cleanups: seen.cleanups.map(|cleanups| CleanupsReport {
                registered: cleanups.registered,
                run: cleanups.run,
                run_later: cleanups.run_later,
                pending: cleanups.pending,
                failed: cleanups.failed,
                owed: cleanups.owed,
            }),
            leaks: seen
                .leaks
                .into_iter()
                .map(|leak| LeakReport { kind: leak.kind, what: leak.what })
                .collect(),
            restart_ms: seen.restart_ms,
            readiness_off_ms: seen.readiness_off_ms,
            listener_closed_ms: seen.listener_closed_ms,
            not_exercised: seen.not_exercised.into_iter().collect(),
            events: seen.events,
        }
    }
}

fn bins(timeline: &[(i64, Outcome)]) -> Vec<Bin> {
    let mut bins: BTreeMap<i64, Bin> = BTreeMap::new();
    for (at, outcome) in timeline {
        let at_ms = at.div_euclid(100) * 100;
        let bin = bins.entry(at_ms).or_insert(Bin { at_ms, ..Bin::default() });
        if outcome.is_ok() {
            bin.ok += 1;
        } else if outcome.is_loss() {
            bin.lost += 1;
        } else {
            bin.retry_safe += 1;
        }
    }
    bins.into_values().collect()
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}
