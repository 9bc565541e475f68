//! What is being started at this moment: for the report of a stop that came in the middle, and for a dump.

use std::panic::Location;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// The starts that are under way, oldest first.
#[derive(Default)]
pub(crate) struct Starting {
    all: Mutex<Vec<Start>>,
    /// Those that a panic has ended.
    panicked: Mutex<Vec<String>>,
}

struct Start {
    name: String,
    place: &'static Location<'static>,
    since: Instant,
}

/// One of them, until it is dropped.
pub(crate) struct UnderWay<'a> {
    name: String,
    starting: &'a Starting,
    since: Instant,
    place: &'static Location<'static>,
}

impl Starting {
    pub(crate) fn begin(&self, name: &str, place: &'static Location<'static>) -> UnderWay<'_> {
        let since = Instant::now();
        self.lock().push(Start { name: name.to_owned(), place, since });
        UnderWay { name: name.to_owned(), starting: self, since, place }
    }

    /// `queue (src/main.rs:12), for 3.0s`, for each.
    pub(crate) fn tell(&self) -> Vec<String> {
        let tell = |start: &Start| {
            format!("{} ({}), for {:.1} s", start.name, start.place, start.since.elapsed().as_secs_f64())
        };
        self.lock().iter().map(tell).collect()
    }

    /// Those that a panic has ended.
    pub(crate) fn panicked(&self) -> Vec<String> {
        self.panicked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Start>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = format!("{} ({})", self.name, self.place);
            self.starting.panicked.lock().unwrap_or_else(PoisonError::into_inner).push(told);
        }
        let mut all = self.starting.lock();
        // Two that cannot be told apart are as good as each other.
        if let Some(at) = all.iter().position(|start| start.since == self.since && start.place == self.place)
        {
            all.remove(at);
        }
    }
}
