//! The walk down the stack: its steps stop strictly one after the other, newest first, on one task of the runtime
//! that is replaced by another when a step panics or is given up. A task for each step would isolate them no
//! better, and cost more than most of them take.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use crate::app::Inner;
use crate::budget;
use crate::escalation::Level;
use crate::part::StopFn;
use crate::report::{StepOutcome, StepReport};
use crate::stack::{self, Step, status_of};
use crate::state::StopCx;
use crate::stop::{cut, finished, outcome_of, told};
use crate::time_left::FIRST_TURN;
use crate::word::Word;

/// Stops everything on the stack, and closes it.
pub(crate) async fn down(inner: &Arc<Inner>) -> Vec<StepReport> {
    let mut reports = Vec::new();
    while !walk(inner, &mut reports).await {}
    reports
}

/// What the one who walks and the one who watches the time know.
#[derive(Default)]
struct Walk {
    state: Mutex<State>,
    /// A step has begun whose time is over before the watcher would look, or has had its first turn in such a time.
    look: Notify,
}

#[derive(Default)]
struct State {
    /// The step that is being stopped.
    now: Option<Now>,
    reports: Vec<StepReport>,
    /// Whoever walks is not to go on.
    given_up: bool,
    /// Until when the watcher sleeps, and how long it would in a hurry.
    watched: Option<(Instant, Duration)>,
    /// What the runtime is asked to forget in the end: one at a time it would wake a thread for each.
    left: Vec<AbortHandle>,
}

/// A run that is dropped in the middle leaves the stack to somebody else: then the step in hand is the last.
struct GiveUpOnDrop(Arc<Walk>);

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        self.0.lock().given_up = true;
    }
}

pub(crate) struct Now {
    /// All but its closure, which runs.
    step: Step,
    pub(crate) begun: Instant,
    limit: Duration,
    /// What it could take without taking it from others: more, where it has a cap.
    own_share: Duration,
    /// It has had its first turn, and waits for something.
    waits: bool,
    pub(crate) word: Arc<Word>,
}

/// Whether the stack is empty. If not, a step has panicked or was given up, and somebody else walks on.
async fn walk(inner: &Arc<Inner>, reports: &mut Vec<StepReport>) -> bool {
    let walk = Arc::new(Walk::default());
    let _given_up = GiveUpOnDrop(Arc::clone(&walk));
    let mut walking = tokio::spawn(stop_all(Arc::clone(inner), Arc::clone(&walk)));
    let whole = loop {
        let seen = walk.watch();
        let joined = tokio::select! {
            joined = &mut walking => Some(joined),
            () = walk.look.notified() => continue,
            () = walk.time_is_over(inner, &seen) => None,
        };
        let outcome = match joined {
            Some(Ok(())) => break true,
            Some(Err(error)) => told(error),
            None => StepOutcome::Abandoned,
        };
        let panicked = outcome != StepOutcome::Abandoned;
        if walk.give_up(inner, seen.id, outcome) || panicked {
            walking.abort();
            break false;
        }
    };
    let mut state = walk.lock();
    state.left.drain(..).for_each(|left| left.abort());
    reports.append(&mut state.reports);
    whole
}

/// What the watcher has in view.
struct Seen {
    /// `None`: none of them yet, or between two of them; looked at again in a moment.
    id: Option<u64>,
    begun: Instant,
    limit: Duration,
    hurry_cap: Duration,
}

async fn stop_all(inner: Arc<Inner>, walk: Arc<Walk>) {
    while let Some((run, cx)) = walk.next(&inner) {
        let outcome = outcome_of(walk.noticing_its_first_turn(&inner, run(cx)).await);
        if !walk.ended(&inner, outcome) {
            return;
        }
    }
}

impl Walk {
    /// Takes the next one off the stack.
    fn next(&self, inner: &Inner) -> Option<(StopFn, StopCx)> {
        let mut step = {
            let state = self.lock();
            if state.given_up {
                return None;
            }
            inner.stack.pop()?
        };
        let own_share = budget::limit(inner.time_left(), step.stop.floor, None, inner.floors());
        let limit = step.stop.cap.map_or(own_share, |cap| own_share.min(cap));
        let (hurry_cap, late) = (step.stop.hurry_cap, step.stop.notice.take());
        let (name, status) = (Arc::clone(&step.name), step.stop.status.clone());
        let (now, run, cx) = Now::begin(inner, step, limit, own_share);
        let ends = now.begun + limit;
        {
            let mut state = self.lock();
            state.now = Some(now);
            let sooner =
                state.watched.is_some_and(|(until, in_a_hurry)| ends < until || hurry_cap < in_a_hurry);
            if sooner || cx.level() >= Level::Hurry {
                self.look.notify_one();
            }
        }
        inner.set_current(&name, status);
        // One that came when the others had been told.
        if let Some(notice) = late {
            stack::tell(notice, &inner.control.now().why());
        }
        Some((run, cx))
    }

    /// Tells the watcher that the step waits for something, where it looks for that.
    async fn noticing_its_first_turn<T>(&self, inner: &Inner, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        let mut first = true;
        poll_fn(|cx| {
            let polled = step.as_mut().poll(cx);
            // One that has had its share of the runtime's time is polled again at once: it waits for nothing.
            if polled.is_pending() && has_budget_remaining() && std::mem::take(&mut first) {
                self.first_turn_is_over(inner);
            }
            polled
        })
        .await
    }

    fn first_turn_is_over(&self, inner: &Inner) {
        let mut state = self.lock();
        let Some(now) = &mut state.now else { return };
        now.waits = true;
        if now.limit < FIRST_TURN || inner.control.level() >= Level::Hurry {
            self.look.notify_one();
        }
    }

    async fn time_is_over(&self, inner: &Inner, seen: &Seen) {
        cut(inner, seen.begun, seen.limit, seen.hurry_cap).await;
        let in_its_first_turn =
            self.lock().now.as_ref().is_some_and(|now| Some(now.step.id) == seen.id && !now.waits);
        if in_its_first_turn && inner.control.level() < Level::Die {
            let turn = FIRST_TURN.min(seen.limit.saturating_add(inner.first_turn()));
            tokio::time::sleep_until(seen.begun + turn).await;
        }
    }

    /// Whether the one who walks may go on.
    fn ended(&self, inner: &Inner, outcome: StepOutcome) -> bool {
        // While it is still this step's turn.
        let status = self.lock().now.as_mut().and_then(|now| now.step.stop.status.take());
        if status.is_some() {
            inner.set_current("", None);
            stack::let_go(status);
        }
        let Some(now) = self.lock().now.take() else { return false };
        let (went_well, left) = (outcome == StepOutcome::Ok, now.word.take_left());
        // Without the lock: what it held is dropped, and may be anything.
        let report = now.report(inner, outcome, Vec::new());
        if went_well {
            inner.give_back(report.time);
        }
        let mut state = self.lock();
        state.left.extend(left);
        state.reports.push(report);
        !state.given_up
    }

    /// Ends the walk: for what was abandoned at this step alone, for a panic at whichever it is at. Whether it was there.
    fn give_up(&self, inner: &Inner, id: Option<u64>, outcome: StepOutcome) -> bool {
        let now = {
            let mut state = self.lock();
            let at = state.now.as_ref().map(|now| now.step.id);
            if at.is_none() || (outcome == StepOutcome::Abandoned && at != id) {
                return false;
            }
            state.given_up = true;
            state.now.take()
        };
        let Some(now) = now else { return false };
        // Before it is dropped: what it is busy with is what held it.
        let held_by = match (&outcome, &now.step.stop.status) {
            (StepOutcome::Abandoned, Some(status)) => status_of(status),
            _ => Vec::new(),
        };
        let report = now.report(inner, outcome, held_by);
        self.lock().reports.push(report);
        true
    }

    fn watch(&self) -> Seen {
        let mut state = self.lock();
        let seen = state.now.as_ref().map(|now| Seen {
            id: Some(now.step.id),
            begun: now.begun,
            limit: now.limit,
            hurry_cap: now.step.stop.hurry_cap,
        });
        let seen = seen.unwrap_or_else(|| {
            let moment = Duration::from_millis(1);
            Seen { id: None, begun: Instant::now(), limit: moment, hurry_cap: moment }
        });
        state.watched = Some((seen.begun + seen.limit, seen.hurry_cap));
        seen
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// The step's turn has come, for so long: what is then to be run, and what with.
    pub(crate) fn begin(
        inner: &Inner,
        mut step: Step,
        limit: Duration,
        own_share: Duration,
    ) -> (Now, StopFn, StopCx) {
        let (begun, word) = (Instant::now(), Arc::<Word>::default());
        let cx = inner.stop_cx(begun + limit, Arc::clone(&word));
        let run = std::mem::replace(&mut step.stop.run, Box::new(|_| Box::pin(async { Ok(()) })));
        (Now { step, begun, limit, own_share, waits: false, word }, run, cx)
    }

    pub(crate) fn report(self, inner: &Inner, outcome: StepOutcome, held_by: Vec<String>) -> StepReport {
        let Now { step, begun, limit, own_share, word, .. } = self;
        let Step { name, kind, place, mut registration, stop, .. } = step;
        registration.finish(finished(&outcome));
        stack::let_go(stop);
        let said = word.take();
        inner.overran(begun.elapsed().saturating_sub(own_share));
        StepReport {
            name: name.to_string(),
            kind,
            place: place.to_string(),
            outcome,
            at: inner.since_trigger(begun),
            time: begun.elapsed(),
            limit,
            in_flight: said.in_flight,
            notes: said.notes,
            abandoned: said.abandoned.into_iter().chain(held_by).collect(),
        }
    }
}
