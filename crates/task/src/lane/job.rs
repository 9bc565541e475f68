//! One job: what one scope owed.

use std::sync::Arc;

use epilogue_scope::How;

use super::{place, state};
use crate::debts::{Debts, Owing};
use crate::pay::{IntoReport, Pay};
use crate::shared::Shared;

/// A runtime may go away under a job, and the lane's thread may fail to make one; not without end.
const MOST_DROPS: u8 = 8;

/// A job. Dropped half-way, by a runtime that goes away, it hands itself back to the lane.
pub(super) struct Job {
    shared: Option<Arc<Shared>>,
    how: How,
    owing: Option<Owing>,
    /// How often a driver has dropped it.
    dropped: u8,
    id: u64,
}

impl Job {
    /// A job that alone pays what is owed; `None` where somebody is in the middle of it.
    pub(super) fn take_over(shared: Arc<Shared>, how: How) -> Option<Job> {
        let job = Job::new(shared, how);
        let taken = job.shared.as_ref().is_some_and(|shared| shared.take_over(job.id));
        if taken {
            return Some(job);
        }
        job.forget();
        None
    }

    /// The owner is gone, and nobody else has it.
    pub(super) fn first(shared: Arc<Shared>, how: How) -> Job {
        let job = Job::new(shared, how);
        if let Some(shared) = &job.shared {
            shared.take_over(job.id);
        }
        job
    }

    fn forget(mut self) {
        self.shared = None;
    }

    fn new(shared: Arc<Shared>, how: How) -> Job {
        let id = state::LANE.begin(&shared);
        Job { shared: Some(shared), how, owing: Debts::owing(), dropped: 0, id }
    }

    pub(super) fn was_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// Pays everything.
    pub(super) async fn run(mut self) {
        if let Some(shared) = self.shared.clone() {
            Pay::down(&shared, 0, self.id, IntoReport(self.how)).await;
        }
        self.shared = None;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        match self.shared.take() {
            None => state::LANE.end(self.id),
            Some(shared) => {
                let (how, owing) = (self.how, self.owing.take());
                let job = Job { shared: Some(shared), how, owing, dropped: self.dropped + 1, id: self.id };
                if job.dropped > MOST_DROPS { job.give_up() } else { place(job) }
            }
        }
    }
}

impl Job {
    /// No driver can be had: what is owed is said to be lost, one by one.
    pub(super) fn give_up(mut self) {
        for place in self.shared.take().iter().flat_map(|shared| shared.places()) {
            let why = std::io::Error::other("it could not be run: there is no thread and no runtime for it");
            epilogue_scope::report::failed(&place, &why);
        }
    }
}
