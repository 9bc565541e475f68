//! The report for a terminal: one table per target that fits 100 columns.

use std::fmt::Write;

use crate::judge::Verdict;
use crate::outcome::{Counts, Outcome};
use crate::report::{Report, Row, TargetReport};

const WIDTH: usize = 100;

/// Whether the text may carry colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// ANSI colours.
    Colour,
    /// Plain text.
    Plain,
}

impl Paint {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Paint::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Paint::Plain => text.to_owned(),
        }
    }

    fn verdict(self, row: &Row) -> String {
        let (word, code) = match (row.verdict, row.known.is_some()) {
            (Verdict::Pass, _) => ("pass", "32"),
            (Verdict::Fail, true) => ("known", "33"),
            (Verdict::Fail, false) => ("FAIL", "1;31"),
            (Verdict::Inconclusive, _) => ("unsure", "33"),
            (Verdict::Skipped, _) => ("skip", "2"),
        };
        self.paint(code, &format!("{word:<6}"))
    }
}

/// The table of one target: a row per trigger, and under each failing row its reason.
pub fn table(report: &Report, target: &TargetReport, paint: Paint) -> String {
    let mut out = String::new();
    let lag = report.conditions.lag_ms as f64 / 1000.0;
    let grace = report.conditions.grace_ms as f64 / 1000.0;
    let title = format!("{}: answered/asked while it was being ended", target.name);
    let conditions = format!("lag {lag} s, grace {grace} s");
    let gap = WIDTH.saturating_sub(title.len() + conditions.len());
    let _ = writeln!(out, "{}{}{conditions}", paint.paint("1", &title), " ".repeat(gap.max(2)));
    let header = format!(
        "{:<13} {:<6} {:<13} {:>7} {:>6} {:>8} {:>8} {:>7} {:>8} {:>5} {:>7}",
        "way out", "", "ended", "flight", "idle", "new", "pool", "writes", "cleanups", "leaks", "restart"
    );
    let _ = writeln!(out, "{}", paint.paint("2", header.trim_end()));
    for row in &target.rows {
        write_row(&mut out, row, paint);
    }
    for note in footnotes(target) {
        for line in wrap(&note, WIDTH - 2) {
            let _ = writeln!(out, "{}", paint.paint("2", &format!("  {line}")));
        }
    }
    out
}

/// What all targets lost, a line each.
pub fn summary(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let width = report.targets.iter().map(|target| target.name.len()).max().unwrap_or(0);
    for target in &report.targets {
        let of = |verdict: Verdict| target.rows.iter().filter(|row| row.verdict == verdict).count();
        let known = target.rows.iter().filter(|row| row.known.is_some()).count();
        let tried = target.rows.len() - of(Verdict::Skipped);
        let writes: u32 = target.rows.iter().filter_map(|row| row.ledger.as_ref()).map(|l| l.lost).sum();
        let (cleanups, later, registered) = target
            .rows
            .iter()
            .filter_map(|row| row.cleanups.as_ref())
            .fold((0, 0, 0), |(run, later, all), c| (run + c.run, later + c.run_later, all + c.registered));
        let mut line = format!(
            "{} of {tried} ways out as expected; lost {} requests{} and {writes} acknowledged writes; left {} things behind{}",
            of(Verdict::Pass),
            target.requests_lost(),
            rows_with(target, |row| row.requests_lost() > 0),
            target.leaks(),
            rows_with(target, |row| !row.leaks.is_empty()),
        );
        if registered > 0 {
            let _ = write!(line, "; ran {} of {registered} cleanups", cleanups + later);
            if later > 0 {
                let _ = write!(line, ", {later} of them when it was dead");
            }
        }
        if known > 0 {
            let _ = write!(line, "; {known} known to fail");
        }
        let name = paint.paint("1", &format!("{:width$}", target.name));
        for (at, line) in wrap(&line, WIDTH - width - 2).into_iter().enumerate() {
            let head = if at == 0 { name.clone() } else { " ".repeat(width) };
            let _ = writeln!(out, "{head}  {line}");
        }
    }
    out
}

/// In which rows, unless it is in most of them.
fn rows_with(target: &TargetReport, lost: impl Fn(&Row) -> bool) -> String {
    let names: Vec<_> = target.rows.iter().filter(|row| lost(row)).map(|row| row.trigger).collect();
    if names.is_empty() || names.len() > 4 { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn write_row(out: &mut String, row: &Row, paint: Paint) {
    let verdict = paint.verdict(row);
    if row.verdict == Verdict::Skipped {
        let mut lines = wrap(&row.reason, WIDTH - 21).into_iter();
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(out, "{:<13} {verdict} {}", row.trigger, paint.paint("2", &first));
        for line in lines {
            let _ = writeln!(out, "{:21}{}", "", paint.paint("2", &line));
        }
        return;
    }
    let cells = Cells::of(row);
    let _ = writeln!(
        out,
        "{:<13} {verdict} {:<13} {:>7} {:>6} {:>8} {:>8} {:>7} {:>8} {:>5} {:>7}",
        row.trigger,
        cells.ended,
        cells.in_flight,
        cells.idle,
        cells.arrivals,
        cells.pool,
        cells.writes,
        cells.cleanups,
        cells.leaks,
        cells.restart
    );
    let mut reason = row.reason.clone();
    if let Some(known) = &row.known {
        reason = format!("{reason} ({known})");
    }
    if !reason.is_empty() {
        let _ = writeln!(out, "    {}", paint.paint("2", &cut(&reason, WIDTH - 4)));
    }
}

/// The cells of a row, as both the terminal and the page show them.
pub(crate) struct Cells {
    pub(crate) ended: String,
    pub(crate) in_flight: String,
    pub(crate) idle: String,
    pub(crate) arrivals: String,
    pub(crate) pool: String,
    pub(crate) writes: String,
    pub(crate) cleanups: String,
    pub(crate) leaks: String,
    pub(crate) restart: String,
}

/// What stands in a cell that could not be exercised.
const NOT_EXERCISED: &str = "n/e";

impl Cells {
    pub(crate) fn of(row: &Row) -> Cells {
        let counts = |cell: &str, counts: &Counts| match row.not_exercised.contains_key(cell) {
            true => NOT_EXERCISED.to_owned(),
            false => answered(counts),
        };
        let restart = row.restart_ms.map_or_else(|| "failed".to_owned(), |ms| format!("{ms} ms"));
        Cells {
            ended: ended(row),
            in_flight: counts("in_flight", &row.in_flight),
            idle: counts("idle", &row.idle),
            arrivals: counts("arrivals", &row.arrivals),
            pool: counts("pool", &row.pool),
            writes: row.ledger.as_ref().filter(|_| row.restart_ms.is_some()).map_or_else(
                || NOT_EXERCISED.to_owned(),
                |ledger| format!("{}/{}", ledger.recovered, ledger.acked),
            ),
            cleanups: row.cleanups.as_ref().map_or_else(
                || NOT_EXERCISED.to_owned(),
                |cleanups| match cleanups.run_later {
                    0 => format!("{}/{}", cleanups.run, cleanups.registered),
                    later => format!("{}+{later}/{}", cleanups.run, cleanups.registered),
                },
            ),
            leaks: row.leaks.len().to_string(),
            restart,
        }
    }
}

/// `ok/asked`, with an `r` where some of the others are safe to send again.
fn answered(counts: &Counts) -> String {
    let safe = if retry_safe(counts) > 0 { "r" } else { "" };
    format!("{}/{}{safe}", counts.ok(), counts.total())
}

fn retry_safe(counts: &Counts) -> u32 {
    counts.total() - counts.ok() - counts.lost()
}

fn ended(row: &Row) -> String {
    let Some(ms) = row.exit.ms else {
        let ran = row.arrivals.total() > 0;
        return if ran { "kept serving" } else { "not run" }.to_owned();
    };
    let how = crate::running::how_ended(row.exit.code, row.exit.signal);
    if ms < 1000 { format!("{how} {ms}ms") } else { format!("{how} {:.1}s", ms as f64 / 1000.0) }
}

/// What the cells need explained, each thing once.
fn footnotes(target: &TargetReport) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for (cell, why) in target.rows.iter().flat_map(|row| &row.not_exercised) {
        let note = format!("{NOT_EXERCISED}, {}: {why}", cell.replace('_', " "));
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    let refused = |row: &Row| row.arrivals.count(Outcome::Refused) + row.pool.count(Outcome::Refused) > 0;
    if target.rows.iter().any(|row| row.verdict == Verdict::Fail && refused(row)) {
        notes.push(
            "refused: nobody listened while a router that did not know yet still sent; keep the listener open \
             until nobody comes, or let a preStop hook outlast the lag"
                .into(),
        );
    }
    let cohorts = |row: &Row| {
        retry_safe(&row.in_flight) + retry_safe(&row.idle) + retry_safe(&row.arrivals) + retry_safe(&row.pool)
    };
    if target.rows.iter().any(|row| cohorts(row) > 0) {
        notes.push(
            "r: some of the others were closed before a byte of the request had arrived: safe to send again, not lost"
                .into(),
        );
    }
    if target.rows.iter().any(|row| row.cleanups.as_ref().is_some_and(|cleanups| cleanups.run_later > 0)) {
        notes.push("cleanups +n: so many were durable, and ran when the program was dead".into());
    }
    notes
}

/// The beginning of a text, on one line; all of it stands in the full report.
fn cut(text: &str, width: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width {
        return text;
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// Breaks a text at spaces; a word longer than the width gets a line of its own, cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let word: String = word.chars().take(width).collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ConditionsReport;
    use crate::row::{Exit, Leak, Ledger, Observation};
    use crate::trigger::Trigger;

    fn report() -> Report {
        let many = |outcome, n| std::iter::repeat_n(outcome, n).collect::<Counts>();
        let seen = Observation {
            in_flight: many(Outcome::Truncated, 30),
            idle: many(Outcome::Ok, 16),
            arrivals: many(Outcome::Refused, 100_000),
            pool: many(Outcome::Reset, 200_000),
            exit: Some(Exit { code: None, signal: Some(libc::SIGKILL), ms: 123_456 }),
            ledger: Some(Ledger { acked: 100, recovered: 99, lost: 1, indeterminate: 0 }),
            restart_ms: Some(20),
            leaks: vec![Leak { kind: "file", what: "x".repeat(300) }],
            not_exercised: vec![("cleanups", "not recorded".into())],
            ..Observation::default()
        };
        let rows = vec![
            Row::new(
                Trigger::Kill,
                Verdict::Fail,
                "lost in flight: 30 truncated".into(),
                1,
                seen,
                Some("why".into()),
            ),
            Row::skipped(Trigger::Exit, "not exercised: no request that does it ".repeat(5)),
        ];
        let target = TargetReport { name: "server".into(), command: vec!["server".into()], rows };
        let conditions = ConditionsReport { lag_ms: 2000, grace_ms: 30_000 };
        Report { schema: "epilogue.prove/v1", targets: vec![target], conditions }
    }

    #[test]
    fn the_table_fits_a_hundred_columns_and_leaves_no_cell_blank() {
        let report = report();
        let text = table(&report, &report.targets[0], Paint::Plain) + &summary(&report, Paint::Plain);
        for line in text.lines() {
            assert!(line.chars().count() <= 102, "{} columns: {line}", line.chars().count());
        }
        let kill = text.lines().find(|line| line.starts_with("KILL")).unwrap();
        for cell in ["known", "SIGKILL 123.5s", "0/30", "16/16", "99/100", "n/e", "20 ms"] {
            assert!(kill.contains(cell), "{cell} in {kill}");
        }
        assert!(text.contains("lost in flight: 30 truncated (why)"));
        assert!(text.contains("n/e, cleanups: not recorded"));
    }

    #[test]
    fn colour_is_only_there_when_asked_for() {
        let report = report();
        assert!(!table(&report, &report.targets[0], Paint::Plain).contains('\x1b'));
        assert!(table(&report, &report.targets[0], Paint::Colour).contains("\x1b[33mknown"));
    }
}
