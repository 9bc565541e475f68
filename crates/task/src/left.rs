//! What a runtime still has of tasks whose futures were dropped where they were.

use std::sync::{Mutex, PoisonError};

use tokio::task::AbortHandle;

/// To be aborted when the last of a scope's tasks has come to its end: each alone would wake a thread, which then
/// contends with whoever goes on.
#[derive(Default)]
pub(crate) struct Left(Mutex<Vec<AbortHandle>>);

impl Left {
    pub(crate) fn abort_later(&self, task: AbortHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).iter().for_each(AbortHandle::abort);
    }
}
