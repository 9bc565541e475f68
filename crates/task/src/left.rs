//! What a runtime still has of tasks whose futures were dropped where they were.

use std::sync::{Mutex, PoisonError};

use tokio::task::AbortHandle;

/// To be aborted together, when their scope is paid, or with the last that may leave something: each alone would wake
/// a thread, which then contends with whoever goes on.
#[derive(Default)]
pub(crate) struct Left(Mutex<Vec<AbortHandle>>);

impl Left {
    pub(crate) fn abort_later(&self, task: AbortHandle) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    pub(crate) fn abort_now(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.iter().for_each(AbortHandle::abort);
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.abort_now();
    }
}
