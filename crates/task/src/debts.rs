//! What the dropped futures of one task still owe on the lane: whoever awaits the task's end awaits
//! that too, or what the cleanups use would be gone before them.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::watch;

/// The jobs on the lane that came from one task.
#[derive(Clone, Debug)]
pub struct Debts(Arc<watch::Sender<usize>>);

impl Debts {
    /// Of a task that has not run yet.
    #[expect(clippy::new_without_default, reason = "two of them have nothing in common")]
    pub fn new() -> Debts {
        Debts(Arc::new(watch::Sender::new(0)))
    }

    /// Returns when nothing is owed any more. Cancel safe.
    pub async fn paid(&self) {
        // The sender is held here.
        let _ = self.0.subscribe().wait_for(|jobs| *jobs == 0).await;
    }

    /// What is handed to the lane meanwhile, on this thread, is of this task.
    pub(crate) fn while_of<R>(&self, body: impl FnOnce() -> R) -> R {
        let _back = Back(swap(Some(self.clone())));
        body()
    }

    /// One more job, of the task that is running or being dropped on this thread.
    pub(crate) fn owing() -> Option<Owing> {
        let debts = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()?;
        debts.0.send_modify(|jobs| *jobs += 1);
        Some(Owing(debts))
    }
}

/// A job that is not paid yet.
pub(crate) struct Owing(Debts);

impl Drop for Owing {
    fn drop(&mut self) {
        self.0.0.send_modify(|jobs| *jobs -= 1);
    }
}

thread_local!(static CURRENT: RefCell<Option<Debts>> = const { RefCell::new(None) });

fn swap(debts: Option<Debts>) -> Option<Debts> {
    CURRENT.try_with(|current| current.replace(debts)).ok().flatten()
}

struct Back(Option<Debts>);

impl Drop for Back {
    fn drop(&mut self) {
        swap(self.0.take());
    }
}
