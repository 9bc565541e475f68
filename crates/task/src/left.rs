//! What a runtime still has of tasks whose futures were dropped where they were.

use std::sync::{Mutex, PoisonError};

use tokio::task::AbortHandle;

const MOST: usize = 1_024;

/// To be aborted together, when their scope is paid, or with the last that may leave something: each alone would wake
/// a thread, which then contends with whoever goes on.
#[derive(Default)]
pub(crate) struct Left(Mutex<Vec<AbortHandle>>);

impl Left {
    pub(crate) fn abort_later(&self, task: AbortHandle) {
        let many = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(task);
            all.len() >= MOST
        };
        // A scope that gives its tasks to others may never be paid.
        if many {
            self.abort_now();
        }
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
