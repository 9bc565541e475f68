//! The stop itself, around the [walk](crate::walk) down the stack: told at once, then paid, then the lane.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use epilogue_scope::record::Finished;
use epilogue_task::{Debts, lane};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::app::Inner;
use crate::error::Error;
use crate::escalation::Level;
use crate::event;
use crate::os;
use crate::report::{ExitReport, StepKind, StepOutcome, StepReport};
use crate::run::conclude;
use crate::stack::Step;
use crate::state::Trigger;
use crate::walk::{self, Now};

/// Claims the stop for the caller. Only the first caller gets it.
pub(crate) fn claim(inner: &Inner) -> bool {
    !inner.driven.swap(true, Ordering::AcqRel)
}

/// Tells everyone that the stop has begun, and says so.
pub(crate) fn announce(inner: &Inner) {
    let trigger = inner.control.now().why();
    inner.stack.announce(&trigger);
    if inner.announced.swap(true, Ordering::AcqRel) {
        return;
    }
    inner.listeners.forget();
    event::stopping(&trigger, inner.budget());
    if !matches!(trigger, Trigger::HandedOver { .. }) {
        inner.systemd.stopping(&trigger.to_string());
    }
    if inner.options.quiet {
        return;
    }
    let (budget, from) = (inner.grace.budget(), inner.grace.from);
    os::say(&format!("epilogue: stopping because {trigger}; at most {budget:.1?} (grace: {from})"));
}

/// The runtime of whoever calls, if it can go on without the calling thread.
pub(crate) fn spare_runtime() -> Option<Handle> {
    let spare = |handle: &Handle| {
        handle.runtime_flavor() == RuntimeFlavor::MultiThread && handle.metrics().num_workers() > 1
    };
    Handle::try_current().ok().filter(spare)
}

/// Stops everything from a thread outside of the program's runtime: on it, if it can go on, and
/// otherwise on a runtime made for this, in a hurry: nothing that needs the program's own runtime can
/// end well there. Then tells the report.
pub(crate) fn pay_elsewhere(
    inner: &Arc<Inner>,
    runtime: Option<&Handle>,
    trigger: Trigger,
    body_dropped: Option<Vec<String>>,
) -> ExitReport {
    announce(inner);
    let stop = async |inner: &Arc<Inner>, body_dropped| {
        let steps = pay(inner).await;
        conclude(inner, trigger, body_dropped, steps).await
    };
    if let Some(runtime) = runtime.filter(|runtime| is_alive(runtime)) {
        return runtime.block_on(stop(inner, body_dropped));
    }
    inner.control.hurry();
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build();
    own.unwrap_or_else(|error| {
        os::say(&format!("epilogue: nothing was stopped: no runtime can be made: {error}"));
        os::exit_now(inner.code.load(Ordering::Relaxed).max(1))
    })
    .block_on(stop(inner, body_dropped))
}

/// Whether a runtime still runs tasks: `run` may have been dropped, and its runtime after it.
fn is_alive(runtime: &Handle) -> bool {
    runtime.block_on(async { tokio::spawn(async {}).await.is_ok() })
}

/// Stops everything on the stack, newest first.
pub(crate) async fn pay(inner: &Arc<Inner>) -> Vec<StepReport> {
    let total = inner.grace.budget();
    if inner.floors() > total {
        os::say(&format!(
            "epilogue: the floors of all steps together are {:.1?}, more than the budget of {total:.1?}: \
             later steps may get no time",
            inner.floors()
        ));
    }
    let mut reports = walk::down(inner).await;
    if inner.options.owns_process {
        inner.set_current("cleanups of dropped futures", None);
        reports.extend(drain_lane(inner, inner.time_left().saturating_sub(inner.floors())).await);
    }
    inner.set_current("", None);
    reports
}

/// Waits for what the body's dropped futures owe, as long as the steps do not need the time.
pub(crate) async fn settle_debts(inner: &Inner, debts: &Debts) {
    let end = inner.began() + inner.grace.budget();
    let limit = end.saturating_duration_since(Instant::now()).saturating_sub(inner.floors());
    tokio::select! {
        () = debts.paid() => {}
        () = cut(inner, Instant::now(), limit, Duration::from_secs(1)) => {}
    }
}

/// Waits for the async cleanups of futures that were dropped, and for a thread that called `exit`
/// to be unwound. Nothing to report where there was nothing to wait for.
async fn drain_lane(inner: &Inner, limit: Duration) -> Option<StepReport> {
    let exiting = crate::exit::unwound();
    if lane::pending() == 0 && exiting.is_none() {
        return None;
    }
    let begun = Instant::now();
    let at = inner.since_trigger(begun);
    let both = async {
        if let Some(unwound) = exiting {
            unwound.await;
        }
        lane::drained().await;
    };
    let in_time = tokio::select! {
        () = both => true,
        () = cut(inner, begun, limit, Duration::from_secs(1)) => false,
    };
    let left = if in_time { Vec::new() } else { lane::unfinished() };
    let abandoned = left.into_iter().map(|job| match job.left.is_empty() {
        true => "an async cleanup that had begun".to_owned(),
        false => format!("async cleanups not begun: {}", job.left.join(", ")),
    });
    Some(StepReport {
        name: "cleanups of dropped futures".into(),
        kind: StepKind::Lane,
        place: "lane".into(),
        outcome: if in_time { StepOutcome::Ok } else { StepOutcome::Abandoned },
        at,
        time: begun.elapsed(),
        limit,
        in_flight: None,
        notes: Vec::new(),
        abandoned: abandoned.collect(),
    })
}

/// A step that came when the stop was over: nobody else would ever stop it.
pub(crate) fn stop_late(inner: &Arc<Inner>, step: Step) {
    os::say(&format!(
        "epilogue: {} ({}) was started after the stop and is stopped at once",
        step.name, step.place
    ));
    let inner = Arc::clone(inner);
    // There may be no runtime here, and the program's may be gone in a moment.
    lane::run_there(async move {
        let report = stop_one(&inner, step, Duration::from_secs(1), Duration::ZERO).await;
        if report.outcome != StepOutcome::Ok {
            os::say(&format!("epilogue: {} ({}): {}", report.name, report.place, report.outcome));
        }
    });
}

/// Stops a step that is on no stack.
///
/// `turn`: what its first turn may take, where that is more than its limit.
pub(crate) async fn stop_one(inner: &Inner, mut step: Step, limit: Duration, turn: Duration) -> StepReport {
    if let Some(notice) = step.stop.notice.take() {
        crate::stack::tell(notice, &inner.control.now().why());
    }
    let hurry_cap = step.stop.hurry_cap;
    let (now, run, cx) = Now::begin(inner, step, limit, limit);
    // All of it: the closure may panic, or block, before it has made its future.
    let mut running = tokio::spawn(async move { run(cx).await });
    let outcome = tokio::select! {
        joined = &mut running => joined.map_or_else(told, outcome_of),
        () = cut(inner, now.begun, limit.max(turn), hurry_cap) => {
            running.abort();
            StepOutcome::Abandoned
        }
    };
    if let Some(left) = now.word.take_left() {
        left.abort();
    }
    now.report(inner, outcome, Vec::new())
}

/// An outcome as records have it.
pub(crate) fn finished(outcome: &StepOutcome) -> Finished {
    match outcome {
        StepOutcome::Ok => Finished::Ran,
        StepOutcome::Failed { .. } => Finished::Failed,
        StepOutcome::Panicked { .. } => Finished::Panicked,
        StepOutcome::Abandoned => Finished::Abandoned,
    }
}

pub(crate) fn outcome_of(stopped: Result<(), Error>) -> StepOutcome {
    match stopped {
        Ok(()) => StepOutcome::Ok,
        Err(error) => StepOutcome::Failed { error: text(&error) },
    }
}

/// How a step went whose task has not come to its end.
pub(crate) fn told(error: JoinError) -> StepOutcome {
    match error.try_into_panic() {
        Ok(payload) => StepOutcome::Panicked { message: epilogue_scope::describe(&*payload) },
        // Cancelled from outside: the runtime is going away.
        Err(error) => StepOutcome::Failed { error: error.to_string() },
    }
}

/// Other people's `Display` may panic, which must not end the stop.
fn text(error: &Error) -> String {
    epilogue_scope::catch(|| error.to_string())
        .unwrap_or_else(|caught| format!("(its Display panicked: {})", caught.describe()))
}

/// Returns when the step's time is over; a hurry shortens it from the moment it sets in.
pub(crate) async fn cut(inner: &Inner, begun: Instant, limit: Duration, hurry_cap: Duration) {
    let mut state = inner.control.watch();
    let end = begun + limit;
    let since = tokio::select! {
        () = tokio::time::sleep_until(end) => return,
        hurried = state.wait_for(|state| state.level >= Level::Hurry) => {
            hurried.ok().and_then(|state| state.hurried_at).unwrap_or_else(Instant::now)
        }
    };
    let hurried = since.max(begun).checked_add(hurry_cap).map_or(end, |hurried| hurried.min(end));
    tokio::select! {
        () = tokio::time::sleep_until(hurried) => {}
        // A process that is told to die does, and says what it was at.
        _ = state.wait_for(|state| state.level >= Level::Die), if !inner.options.owns_process => {}
    }
}
