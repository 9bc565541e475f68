//! The events of a stop, for whoever collects those of `tracing`.

use crate::report::ExitReport;
use crate::state::Trigger;

/// `epilogue.stopping`: the stop begins.
pub(crate) fn stopping(trigger: &Trigger, budget: std::time::Duration) {
    #[cfg(feature = "tracing")]
    isolated(|| {
        tracing::info!(
            name: "epilogue.stopping",
            target: "epilogue",
            %trigger,
            budget_ms = as_ms(budget),
            "epilogue.stopping"
        );
    });
    let _ = (trigger, budget);
}

/// `epilogue.exit`: everything has stopped but what is to [run last](crate::App::defer_last).
pub(crate) fn exit(report: &ExitReport) {
    #[cfg(feature = "tracing")]
    isolated(|| {
        report.steps.iter().for_each(step);
        tracing::info!(
            name: "epilogue.exit",
            target: "epilogue",
            code = report.code,
            trigger = %report.trigger,
            level = report.level,
            total_ms = as_ms(report.total),
            budget_ms = as_ms(report.budget),
            steps = report.steps.len(),
            in_flight = report.in_flight().map(|all| all.at_start),
            in_flight_at_end = report.in_flight().and_then(|all| all.at_end),
            failed = report.failed(),
            abandoned = ?report.abandoned(),
            "epilogue.exit"
        );
    });
    let _ = report;
}

#[cfg(feature = "tracing")]
fn step(step: &crate::report::StepReport) {
    tracing::debug!(
        name: "epilogue.step",
        target: "epilogue",
        step = step.name,
        outcome = ?step.outcome,
        at_ms = as_ms(step.at),
        ms = as_ms(step.time),
        in_flight = step.in_flight.map(|all| all.at_start),
        in_flight_at_end = step.in_flight.and_then(|all| all.at_end),
        "epilogue.step"
    );
}

/// Whoever collects events is somebody else's code: some panic when nobody reads their output any more.
#[cfg(feature = "tracing")]
fn isolated(tell: impl FnOnce()) {
    if let Err(caught) = epilogue_scope::catch(tell) {
        crate::os::say(&format!("epilogue: an event was not told: {}", caught.describe()));
    }
}

#[cfg(feature = "tracing")]
fn as_ms(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
