//! The stack of what is to be stopped.

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epilogue_scope::record::Registration;

use crate::part::{Notice, Status, Stop};
use crate::plan::PlannedStep;
use crate::report::StepKind;
use crate::state::Trigger;

/// One thing that is to be stopped.
pub(crate) struct Step {
    /// Unique in its stack.
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) kind: StepKind,
    pub(crate) place: &'static Location<'static>,
    pub(crate) registration: Registration,
    pub(crate) stop: Stop,
}

/// What somebody has registered is dropped, and may panic: said, and no more.
pub(crate) fn let_go<T>(what: T) {
    if let Err(caught) = epilogue_scope::catch(|| drop(what)) {
        let message = caught.describe();
        epilogue_scope::report::panicked("what a step held", &message as &(dyn std::any::Any + Send));
    }
}

/// Steps in the order in which they started.
#[derive(Default)]
pub(crate) struct Stack {
    steps: Mutex<Steps>,
    next: AtomicU64,
}

#[derive(Default)]
struct Steps {
    /// By their numbers.
    steps: Vec<Step>,
    /// Kept, not summed when asked: a stop asks once per step.
    floors: Duration,
    /// The stop has found it empty: nothing would ever stop a further step.
    closed: bool,
}

impl Stack {
    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Puts a step on top; gives it back when the stop is over.
    pub(crate) fn push(&self, step: Step) -> Result<(), Box<Step>> {
        let mut steps = self.lock();
        if steps.closed {
            return Err(Box::new(step));
        }
        steps.floors = steps.floors.saturating_add(step.stop.floor);
        // Two threads may come in another order than they have drawn their numbers in.
        let at = match steps.steps.last() {
            Some(last) if last.id > step.id => steps.steps.partition_point(|other| other.id < step.id),
            _ => steps.steps.len(),
        };
        steps.steps.insert(at, step);
        Ok(())
    }

    /// Takes the newest step; `None` closes the stack.
    pub(crate) fn pop(&self) -> Option<Step> {
        let mut steps = self.lock();
        let popped = steps.steps.pop();
        match &popped {
            Some(step) => steps.floors = steps.floors.saturating_sub(step.stop.floor),
            None => steps.closed = true,
        }
        popped
    }

    /// Takes out a step that has come to its end by itself.
    pub(crate) fn remove(&self, id: u64) -> Option<Step> {
        let mut steps = self.lock();
        let at = steps.steps.binary_search_by_key(&id, |step| step.id).ok()?;
        let step = steps.steps.remove(at);
        steps.floors = steps.floors.saturating_sub(step.stop.floor);
        Some(step)
    }

    /// What the remaining steps must be left, all floors together.
    pub(crate) fn floors(&self) -> Duration {
        self.lock().floors
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().steps.iter().rev().map(|step| format!("{} ({})", step.name, step.place)).collect()
    }

    /// What is on it, newest first, for a plan that is to fill in the rest.
    pub(crate) fn plan(&self) -> Vec<PlannedStep> {
        let planned = |step: &Step| PlannedStep {
            cap: step.stop.cap,
            serves: step.stop.serves,
            ..PlannedStep::new(&step.name, step.kind, step.place, step.stop.floor)
        };
        self.lock().steps.iter().rev().map(planned).collect()
    }

    /// What is on it, newest first, and what that is busy with.
    pub(crate) fn describe(&self) -> Vec<String> {
        let all: Vec<_> = {
            let steps = self.lock();
            let tell = |step: &Step| (format!("{} ({})", step.name, step.place), step.stop.status.clone());
            steps.steps.iter().rev().map(tell).collect()
        };
        // Without the lock: somebody else's code.
        let lines = all.into_iter().flat_map(|(line, status)| {
            let busy = status.as_ref().map_or_else(Vec::new, status_of);
            let_go(status);
            [line].into_iter().chain(busy.into_iter().map(|line| format!("  {line}")))
        });
        lines.collect()
    }

    /// Whether something on the stack keeps the program up after its body has returned.
    pub(crate) fn serves(&self) -> bool {
        self.lock().steps.iter().any(|step| step.stop.serves)
    }

    /// Tells every step once that the stop has begun, newest first.
    pub(crate) fn announce(&self, why: &Trigger) {
        let notices: Vec<_> =
            self.lock().steps.iter_mut().rev().filter_map(|step| step.stop.notice.take()).collect();
        notices.into_iter().for_each(|notice| tell(notice, why));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a part is busy with. One that cannot tell must not end who asks.
pub(crate) fn status_of(status: &Status) -> Vec<String> {
    let told = epilogue_scope::catch(|| status());
    told.unwrap_or_else(|caught| vec![format!("(its status panicked: {})", caught.describe())])
}

/// A part whose notice panics must not keep the others from being told.
pub(crate) fn tell(notice: Notice, why: &Trigger) {
    if let Err(caught) = epilogue_scope::catch(|| notice(why))
        && let Some(payload) = caught.chain().current()
    {
        epilogue_scope::report::panicked("a notice of the stop", &**payload);
    }
}
