//! The exit report as one line, for logs.

use std::fmt::Write;

use crate::report::{ExitReport, InFlight};
use crate::state::Trigger;

impl ExitReport {
    /// The report as one line of `key=value`: `epilogue.exit code=0 trigger="SIGTERM" total_ms=2013.2 …`. The
    /// program tells it like this with [`ReportAs::Line`](crate::ReportAs::Line).
    pub fn line(&self) -> String {
        let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e4).round() / 10.0;
        let mut line = format!(
            "epilogue.exit code={} trigger={:?} level={} total_ms={} budget_ms={}",
            // Whoever called `exit` chose its code; nobody else gets to know it.
            if self.trigger == Trigger::ProcessExit { "as_called".to_owned() } else { self.code.to_string() },
            self.trigger.to_string(),
            self.level,
            ms(self.total),
            ms(self.budget)
        );
        if let Some(InFlight { at_start, at_end }) = self.in_flight() {
            let _ = write!(line, " in_flight={at_start}");
            let _ = at_end.map(|left| write!(line, " in_flight_at_end={left}"));
        }
        let steps: Vec<String> =
            self.steps.iter().map(|step| format!("{} {}ms", step.name, ms(step.time))).collect();
        let failed: Vec<String> = self.steps.iter().filter_map(ExitReport::failure).collect();
        for (key, all) in [("steps", steps), ("failed", failed), ("abandoned", self.abandoned())] {
            if !all.is_empty() {
                // Quoted as a whole: names and errors are other people's text.
                let _ = write!(line, " {key}={:?}", all.join("; "));
            }
        }
        if self.cleanup_failures > 0 {
            let _ = write!(line, " cleanup_failures={}", self.cleanup_failures);
        }
        line
    }
}
