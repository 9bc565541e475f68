//! The report as one page: no script, no request to anywhere, light and dark, wide and narrow.

use std::fmt::Write;
use std::io;

use crate::judge::Verdict;
use crate::outcome::Counts;
use crate::report::{Report, Row, TargetReport};
use crate::table::Cells;

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub(crate) fn page(report: &Report) -> io::Result<String> {
    let mut body = String::new();
    for target in &report.targets {
        matrix(&mut body, target);
    }
    body.push_str("<h2>Row by row</h2>\n");
    for target in &report.targets {
        for row in target.rows.iter().filter(|row| row.verdict != Verdict::Skipped) {
            details(&mut body, target, row, report.conditions.lag_ms);
        }
    }
    let json = serde_json::to_string(report).map_err(io::Error::other)?.replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>What was lost: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>What was lost</h1>\n<p class=\"lead\">{lead}</p>\n{body}\
         <script type=\"application/json\" id=\"report\">{json}</script>\n</body>\n</html>\n",
        title = escape(&names(report)),
        lead = escape(&lead(report)),
    ))
}

fn names(report: &Report) -> String {
    report.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn lead(report: &Report) -> String {
    let lag = report.conditions.lag_ms as f64 / 1000.0;
    let grace = report.conditions.grace_ms as f64 / 1000.0;
    format!(
        "Each row ends the program in one way, under load. For {lag} s after termination begins requests \
         keep coming, as from a load balancer that does not know yet; after {grace} s the platform kills. \
         Cells show what was answered of what was asked; r means that some of the others were closed before a \
         byte of the request had arrived, so that they are safe to send again. Green cells lost nothing, red ones \
         most."
    )
}

fn matrix(out: &mut String, target: &TargetReport) {
    let clean = target.rows.iter().filter(|row| row.verdict == Verdict::Pass).count();
    let tried = target.rows.iter().filter(|row| row.verdict != Verdict::Skipped).count();
    let _ = writeln!(
        out,
        "<section>\n<h2>{}</h2>\n<p>{clean} of {tried} ways out as expected. {} requests lost, {} things left behind.</p>",
        escape(&target.name),
        target.requests_lost(),
        target.leaks()
    );
    out.push_str(
        "<table class=\"matrix\">\n<thead><tr><th scope=\"col\">Way out</th><th scope=\"col\">Verdict</th>\
         <th scope=\"col\">Ended</th><th scope=\"col\">In flight</th><th scope=\"col\">Idle</th>\
         <th scope=\"col\">New</th><th scope=\"col\">Pool</th><th scope=\"col\">Writes</th>\
         <th scope=\"col\">Cleanups</th><th scope=\"col\">Leaks</th><th scope=\"col\">Restart</th></tr></thead>\n<tbody>\n",
    );
    for row in &target.rows {
        matrix_row(out, target, row);
    }
    out.push_str("</tbody>\n</table>\n</section>\n");
}

fn matrix_row(out: &mut String, target: &TargetReport, row: &Row) {
    let (word, class) = verdict(row);
    if row.verdict == Verdict::Skipped {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td data-label=\"Verdict\" class=\"{class}\">{word}</td>\
             <td colspan=\"9\" class=\"quiet\">{}</td></tr>",
            row.trigger,
            escape(&row.reason)
        );
        return;
    }
    let cells = Cells::of(row);
    let _ = write!(
        out,
        "<tr><th scope=\"row\"><a href=\"#{}\">{}</a></th><td data-label=\"Verdict\" class=\"{class}\">{word}</td>\
         <td data-label=\"Ended\">{}</td>",
        anchor(target, row),
        row.trigger,
        escape(&cells.ended)
    );
    let mut cell = |label: &str, text: &str, heat: &str| {
        let _ = write!(out, "<td data-label=\"{label}\" class=\"{heat}\">{}</td>", escape(text));
    };
    cell("In flight", &cells.in_flight, heat_of(&row.in_flight));
    cell("Idle", &cells.idle, heat_of(&row.idle));
    cell("New", &cells.arrivals, heat_of(&row.arrivals));
    cell("Pool", &cells.pool, heat_of(&row.pool));
    let writes = row.ledger.as_ref().map_or("quiet", |l| heat(l.lost.into(), l.acked.into()));
    cell("Writes", &cells.writes, writes);
    let cleanups = row.cleanups.as_ref().map_or("quiet", |c| heat(c.pending, c.registered));
    cell("Cleanups", &cells.cleanups, cleanups);
    cell("Leaks", &cells.leaks, if row.leaks.is_empty() { "h0" } else { "h3" });
    cell("Restart", &cells.restart, if row.restart_ms.is_some() { "h0" } else { "h3" });
    out.push_str("</tr>\n");
}

fn details(out: &mut String, target: &TargetReport, row: &Row, lag_ms: u64) {
    let (word, class) = verdict(row);
    let open = if row.verdict == Verdict::Pass { "" } else { " open" };
    let _ = writeln!(
        out,
        "<details id=\"{}\"{open}>\n<summary><b>{}</b> {} <span class=\"{class}\">{word}</span></summary>",
        anchor(target, row),
        row.trigger,
        escape(&target.name)
    );
    if !row.reason.is_empty() {
        let known = row.known.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let _ = writeln!(out, "<p>{}{}</p>", escape(&row.reason), escape(&known));
    }
    timeline(out, row, lag_ms);
    out.push_str("<dl>\n");
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    };
    fact("In flight, proven by", row.proof.clone());
    let moment =
        |ms: Option<u64>, else_: &str| ms.map_or_else(|| else_.to_owned(), |ms| format!("after {ms} ms"));
    let with_it = if row.exit.ms.is_some() { "with the process" } else { "not while it was watched" };
    fact(
        "Readiness off",
        moment(row.readiness_off_ms, "not exercised: no readiness path, or with the process"),
    );
    fact("Listener closed", moment(row.listener_closed_ms, with_it));
    fact("Gone", moment(row.exit.ms, "it kept serving"));
    for (name, counts) in [
        ("In flight", &row.in_flight),
        ("Idle connections", &row.idle),
        ("New connections", &row.arrivals),
        ("Pool", &row.pool),
    ] {
        fact(name, outcomes(counts));
    }
    if let Some(ledger) = &row.ledger {
        fact(
            "Writes",
            format!(
                "{} acknowledged, {} read back, {} lost, {} nobody knows",
                ledger.acked, ledger.recovered, ledger.lost, ledger.indeterminate
            ),
        );
    }
    fact(
        "Generator",
        format!("p99 {:.1} ms late, {} unsent", row.generator.late_p99_ms, row.generator.unsent),
    );
    for (cell, why) in &row.not_exercised {
        fact(&cell.replace('_', " "), why.clone());
    }
    out.push_str("</dl>\n");
    let leaks = row.leaks.iter().map(|leak| format!("{}: {}", leak.kind, leak.what));
    list(out, "Left behind", leaks);
    let owed = row.cleanups.iter().flat_map(|cleanups| cleanups.owed.iter().cloned());
    list(out, "Owed and never run", owed);
    let events = row.events.iter().filter(|(_, event)| !event.contains("guard @"));
    list(out, "Recorded since the trigger", events.map(|(at, event)| format!("{at} ms {event}")));
    out.push_str("</details>\n");
}

/// The names of the moments stand above the bars, each on a line of its own.
const TOP: f64 = 40.0;
const BASE: f64 = 116.0;

/// Requests per tenth of a second, stacked: answered, safe to send again, lost; and the moments
/// that count.
fn timeline(out: &mut String, row: &Row, lag_ms: u64) {
    let last_bin = row.timeline.last().map_or(0, |bin| bin.at_ms + 100);
    let moments =
        [("ready off", row.readiness_off_ms), ("closed", row.listener_closed_ms), ("gone", row.exit.ms)];
    let end = moments.iter().filter_map(|(_, ms)| *ms).chain([lag_ms]).max().unwrap_or(0);
    let end = i64::try_from(end).unwrap_or(i64::MAX).max(last_bin).max(1) as f64;
    let most = row.timeline.iter().map(|bin| bin.ok + bin.retry_safe + bin.lost).max().unwrap_or(0).max(1);
    let x = |ms: f64| 700.0 * ms / end;
    let _ = write!(
        out,
        "<div class=\"scroll\"><svg viewBox=\"0 0 700 132\" role=\"img\" aria-label=\"requests per tenth of a second since the trigger\">\
         <rect class=\"lag\" x=\"0\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        x(lag_ms as f64),
        BASE - TOP
    );
    for bin in &row.timeline {
        let mut y = BASE;
        for (class, count) in [("ok", bin.ok), ("safe", bin.retry_safe), ("lost", bin.lost)] {
            let height = (BASE - TOP) * f64::from(count) / f64::from(most);
            y -= height;
            let (at, width) = (x(bin.at_ms as f64), (x(100.0) - 1.0).max(0.5));
            if count > 0 {
                let _ = write!(
                    out,
                    "<rect class=\"{class}\" x=\"{at:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
                );
            }
        }
    }
    for (line, (name, ms)) in moments.into_iter().enumerate() {
        let Some(ms) = ms else { continue };
        let at = x(ms as f64);
        let (anchor, gap) = if at > 600.0 { ("end", -4.0) } else { ("start", 4.0) };
        let y = 10 + 12 * line;
        let _ = write!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{BASE}\"/>\
             <text x=\"{:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{name}</text>",
            y - 8,
            at + gap
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"0\" y=\"129\">0 s</text><text x=\"700\" y=\"129\" text-anchor=\"end\">{:.1} s</text></svg></div>",
        end / 1000.0
    );
}

fn list(out: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let items: Vec<String> = items.collect();
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "<h3>{title}</h3>\n<ul>");
    for item in items {
        let _ = writeln!(out, "<li>{}</li>", escape(&item));
    }
    out.push_str("</ul>\n");
}

fn outcomes(counts: &Counts) -> String {
    let all: Vec<String> =
        counts.iter().map(|(outcome, count)| format!("{count} {}", outcome.name())).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn verdict(row: &Row) -> (&'static str, &'static str) {
    match (row.verdict, row.known.is_some()) {
        (Verdict::Pass, _) => ("pass", "pass"),
        (Verdict::Fail, true) => ("known to fail", "known"),
        (Verdict::Fail, false) => ("fail", "fail"),
        (Verdict::Inconclusive, _) => ("inconclusive", "known"),
        (Verdict::Skipped, _) => ("skipped", "quiet"),
    }
}

fn heat_of(counts: &Counts) -> &'static str {
    if counts.total() == 0 { "quiet" } else { heat(counts.lost().into(), counts.total().into()) }
}

/// From nothing lost to all of it.
fn heat(lost: u64, of: u64) -> &'static str {
    match (lost, lost * 10 / of.max(1)) {
        (0, _) => "h0",
        (_, 0..=1) => "h1",
        (_, 2..=5) => "h2",
        _ => "h3",
    }
}

fn anchor(target: &TargetReport, row: &Row) -> String {
    let name = format!("{}-{}", target.name, row.trigger);
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
