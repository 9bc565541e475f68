//! What is being started at this moment: for the report of a stop that came in the middle, and for a dump.

use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The starts that are under way, oldest first.
#[derive(Default)]
pub(crate) struct Starting {
    all: Mutex<Vec<Start>>,
}

struct Start {
    name: String,
    place: &'static Location<'static>,
    since: Instant,
}

/// One of them, until it is dropped.
pub(crate) struct UnderWay<'a> {
    starting: &'a Starting,
    since: Instant,
    place: &'static Location<'static>,
}

impl Starting {
    pub(crate) fn begin(&self, name: &str, place: &'static Location<'static>) -> UnderWay<'_> {
        let since = Instant::now();
        self.lock().push(Start { name: name.to_owned(), place, since });
        UnderWay { starting: self, since, place }
    }

    /// `queue (src/main.rs:12), for 3.0s`, for each.
    pub(crate) fn tell(&self) -> Vec<String> {
        let tell = |start: &Start| {
            format!("{} ({}), for {:.1} s", start.name, start.place, start.since.elapsed().as_secs_f64())
        };
        self.lock().iter().map(tell).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Start>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut all = self.starting.lock();
        // Two that cannot be told apart are as good as each other.
        if let Some(at) = all.iter().position(|start| start.since == self.since && start.place == self.place)
        {
            all.remove(at);
        }
    }
}
