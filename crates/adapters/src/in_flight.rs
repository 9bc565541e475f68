//! The messages that are being handled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::AbortHandle;

#[derive(Default)]
pub(crate) struct InFlight {
    count: watch::Sender<usize>,
    messages: Mutex<(u64, BTreeMap<u64, Message>)>,
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
            messages.0 += 1;
            let id = messages.0;
            messages.1.insert(id, Message { what, since: Instant::now(), handler });
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
        self.lock().1.values().map(tell).collect()
    }

    /// Ends the handlers at their next `.await`.
    pub(crate) fn abort(&self) {
        self.lock().1.values().for_each(|message| message.handler.abort());
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Message>)> {
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
        self.all.lock().1.remove(&self.id);
        self.all.count.send_modify(|count| *count -= 1);
    }
}
