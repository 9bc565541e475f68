//! What a stop leaves for the report.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use crate::report::InFlight;

/// Left while the stop runs, taken when it has ended or was given up.
#[derive(Default)]
pub(crate) struct Word(Mutex<Said>);

/// All of it.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) notes: Vec<String>,
    pub(crate) abandoned: Vec<String>,
    pub(crate) in_flight: Option<InFlight>,
    /// What the runtime still holds of it, which nobody waits for.
    left: Option<AbortHandle>,
}

impl Word {
    pub(crate) fn note(&self, line: String) {
        self.lock().notes.push(line);
    }

    pub(crate) fn abandon(&self, what: String) {
        self.lock().abandoned.push(what);
    }

    pub(crate) fn in_flight(&self, count: usize) {
        let mut said = self.lock();
        match &mut said.in_flight {
            Some(in_flight) => in_flight.at_end = Some(count),
            None => said.in_flight = Some(InFlight { at_start: count, at_end: None }),
        }
    }

    pub(crate) fn abort_later(&self, left: AbortHandle) {
        self.lock().left = Some(left);
    }

    pub(crate) fn take_left(&self) -> Option<AbortHandle> {
        self.lock().left.take()
    }

    pub(crate) fn take(&self) -> Said {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
