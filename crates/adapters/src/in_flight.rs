//! The messages that are being handled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::AbortHandle;

#[derive(Default)]
pub(crate) struct InFlight {
    count: watch::Sender<usize>,
    messages: Mutex<Messages>,
}

#[derive(Default)]
struct Messages {
    next: u64,
    all: BTreeMap<u64, Message>,
    /// Whatever begins is ended at once.
    cut: bool,
}

struct Message {
    what: String,
    since: Instant,
    handler: AbortHandle,
}

impl InFlight {
    /// This one is being handled, until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>, what: String, handler: AbortHandle) -> Busy {
        let id = {
            let mut messages = self.lock();
            messages.next += 1;
            let id = messages.next;
            if messages.cut {
                handler.abort();
            }
            messages.all.insert(id, Message { what, since: Instant::now(), handler });
            id
        };
        self.count.send_modify(|count| *count += 1);
        Busy { all: Arc::clone(self), id }
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Returns when none is being handled.
    pub(crate) async fn none(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Which, and for how long, oldest first.
    pub(crate) fn tell(&self) -> Vec<String> {
        let tell = |message: &Message| {
            format!("{}, for {:.1} s", message.what, message.since.elapsed().as_secs_f64())
        };
        self.lock().all.values().map(tell).collect()
    }

    /// Ends the handlers at their next `.await`, and those of whatever comes later.
    pub(crate) fn abort(&self) {
        let mut messages = self.lock();
        messages.cut = true;
        messages.all.values().for_each(|message| message.handler.abort());
    }

    fn lock(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that is being handled.
pub(crate) struct Busy {
    all: Arc<InFlight>,
    id: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().all.remove(&self.id);
        self.all.count.send_modify(|count| *count -= 1);
    }
}
