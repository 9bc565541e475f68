//! The stack of what is to be stopped.

use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use epilogue_scope::record::Registration;

use crate::part::Stop;
use crate::report::StepKind;

/// One thing that is to be stopped.
pub(crate) struct Step {
    pub(crate) name: Arc<str>,
    pub(crate) kind: StepKind,
    pub(crate) place: &'static Location<'static>,
    pub(crate) registration: Registration,
    pub(crate) stop: Stop,
}

/// Steps in the order in which they started.
#[derive(Default)]
pub(crate) struct Stack(Mutex<Vec<Step>>);

impl Stack {
    pub(crate) fn push(&self, step: Step) {
        self.lock().push(step);
    }

    pub(crate) fn pop(&self) -> Option<Step> {
        self.lock().pop()
    }

    /// What the remaining steps must be left, all floors together.
    pub(crate) fn floors(&self) -> Duration {
        self.lock().iter().map(|step| step.stop.floor).sum()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().iter().rev().map(|step| format!("{} ({})", step.name, step.place)).collect()
    }

    /// Whether something on the stack keeps the program up after its body has returned.
    pub(crate) fn serves(&self) -> bool {
        self.lock().iter().any(|step| step.stop.serves)
    }

    /// Tells every step once that the stop has begun, newest first.
    pub(crate) fn announce(&self) {
        let notices: Vec<_> =
            self.lock().iter_mut().rev().filter_map(|step| step.stop.notice.take()).collect();
        for notice in notices {
            if let Err(caught) = epilogue_scope::catch(notice)
                && let Some(payload) = caught.chain().current()
            {
                epilogue_scope::report::panicked("a notice of the stop", &**payload);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
