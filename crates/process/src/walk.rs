//! The walk down the stack: its steps stop strictly one after the other, newest first, on one task of the runtime
//! that is replaced by another when a step panics or is given up. A task for each step would isolate them no
//! better, and cost more than most of them take.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::app::Inner;
use crate::budget;
use crate::part::StopFn;
use crate::report::{StepOutcome, StepReport};
use crate::stack::{self, Step, status_of};
use crate::state::{StopCx, Word};
use crate::stop::{cut, finished, outcome_of, told};

/// Stops everything on the stack, and closes it.
pub(crate) async fn down(inner: &Arc<Inner>, began: Instant) -> Vec<StepReport> {
    let mut reports = Vec::new();
    while !walk(inner, began, &mut reports).await {}
    reports
}

/// What the one who walks and the one who watches the time know.
#[derive(Default)]
struct Walk {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The step that is being stopped.
    now: Option<Now>,
    reports: Vec<StepReport>,
    /// Its time was over: whoever walks is not to go on.
    given_up: bool,
    /// What the runtime is asked to forget in the end: one at a time it would wake a thread for each.
    left: Vec<AbortHandle>,
}

struct Now {
    /// All but its closure, which runs.
    step: Step,
    begun: Instant,
    limit: Duration,
    word: Arc<Word>,
}

/// Whether the stack is empty. If not, a step has panicked or was given up, and somebody else walks on.
async fn walk(inner: &Arc<Inner>, began: Instant, reports: &mut Vec<StepReport>) -> bool {
    let walk = Arc::new(Walk::default());
    let mut walking = tokio::spawn(stop_all(Arc::clone(inner), Arc::clone(&walk), began));
    let whole = loop {
        // None of them yet, or between two of them: looked at again in a moment.
        let (id, begun, limit, hurry_cap) = walk.now().unwrap_or_else(|| {
            let moment = Duration::from_millis(1);
            (u64::MAX, Instant::now(), moment, moment)
        });
        let joined = tokio::select! {
            joined = &mut walking => Some(joined),
            () = cut(inner, begun, limit, hurry_cap) => None,
        };
        let outcome = match joined {
            Some(Ok(())) => break true,
            Some(Err(error)) => told(error),
            None if walk.now().is_some_and(|(now, ..)| now == id) => StepOutcome::Abandoned,
            None => continue,
        };
        walk.give_up(inner, outcome);
        walking.abort();
        break false;
    };
    let mut state = walk.lock();
    state.left.drain(..).for_each(|left| left.abort());
    reports.append(&mut state.reports);
    whole
}

async fn stop_all(inner: Arc<Inner>, walk: Arc<Walk>, began: Instant) {
    while let Some((run, cx)) = walk.next(&inner, began) {
        let outcome = outcome_of(run(cx).await);
        if !walk.ended(&inner, outcome) {
            return;
        }
    }
}

impl Walk {
    /// Takes the next one off the stack.
    fn next(&self, inner: &Inner, began: Instant) -> Option<(StopFn, StopCx)> {
        let mut state = self.lock();
        if state.given_up {
            return None;
        }
        let mut step = inner.stack.pop()?;
        inner.set_current(&step.name, step.stop.status.clone());
        let begun = Instant::now();
        let (total, word) = (inner.budget(), Arc::<Word>::default());
        let left = (began + total).saturating_duration_since(begun);
        let limit = budget::limit(left, step.stop.floor, step.stop.cap, inner.floors());
        let cx = inner.stop_cx(begun + limit, Arc::clone(&word));
        let run = std::mem::replace(&mut step.stop.run, Box::new(|_| Box::pin(async { Ok(()) })));
        let late = step.stop.notice.take();
        state.now = Some(Now { step, begun, limit, word });
        drop(state);
        // One that came when the others had been told.
        if let Some(notice) = late {
            stack::tell(notice, &inner.control.now().why());
        }
        Some((run, cx))
    }

    /// Whether the one who walks may go on.
    fn ended(&self, inner: &Inner, outcome: StepOutcome) -> bool {
        let mut state = self.lock();
        let Some(now) = state.now.take() else { return false };
        state.left.extend(now.word.take_left());
        let went_well = outcome == StepOutcome::Ok;
        let report = now.report(inner, outcome, Vec::new());
        if went_well {
            inner.give_back(report.time);
        }
        state.reports.push(report);
        true
    }

    fn give_up(&self, inner: &Inner, outcome: StepOutcome) {
        let now = {
            let mut state = self.lock();
            state.given_up = true;
            state.now.take()
        };
        let Some(now) = now else { return };
        // Before it is dropped: what it is busy with is what held it.
        let held_by = match (&outcome, &now.step.stop.status) {
            (StepOutcome::Abandoned, Some(status)) => status_of(status),
            _ => Vec::new(),
        };
        let report = now.report(inner, outcome, held_by);
        self.lock().reports.push(report);
    }

    fn now(&self) -> Option<(u64, Instant, Duration, Duration)> {
        let state = self.lock();
        state.now.as_ref().map(|now| (now.step.id, now.begun, now.limit, now.step.stop.hurry_cap))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn report(self, inner: &Inner, outcome: StepOutcome, held_by: Vec<String>) -> StepReport {
        let Now { mut step, begun, limit, word } = self;
        step.registration.finish(finished(&outcome));
        StepReport {
            name: step.name.to_string(),
            kind: step.kind,
            place: step.place.to_string(),
            outcome,
            at: inner.since_trigger(begun),
            time: begun.elapsed(),
            limit,
            notes: word.take_notes(),
            abandoned: word.take_abandoned().into_iter().chain(held_by).collect(),
        }
    }
}
