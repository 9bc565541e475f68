//! Ready: the moment when everything has started, and whoever waits for it is told.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;

use crate::app::{App, Inner};
use crate::options::PlanAs;
use crate::os;
use crate::plan::plan;
use crate::state::Trigger;

impl App {
    /// Says that everything has started. Nobody has to: it is so as soon as the body awaits
    /// [`stopping`](App::stopping), or returns while something serves. For a body that goes on with other work.
    pub fn ready(&self) {
        begin(&self.inner);
    }

    /// Whether everything has started.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }
}

pub(crate) fn begin(inner: &Inner) {
    if inner.control.now().stopping() || inner.ready.swap(true, Ordering::AcqRel) {
        return;
    }
    if inner.options.plan != PlanAs::NotAsked {
        tell_plan(inner);
    }
}

fn tell_plan(inner: &Inner) {
    let plan = plan(inner);
    let text = match inner.options.plan {
        PlanAs::Json => serde_json::to_string_pretty(&plan).unwrap_or_else(|error| error.to_string()) + "\n",
        _ => plan.to_string(),
    };
    os::tell(&text);
    if !plan.errors.is_empty() {
        inner.code.store(1, Ordering::Relaxed);
    }
    inner.control.begin(Trigger::Planned);
}

thread_local!(static IN_BODY: Cell<bool> = const { Cell::new(false) });

/// Whether the code that is running is the body of a run, not one of its tasks.
pub(crate) fn in_body() -> bool {
    IN_BODY.get()
}

/// Polls a body as what it is.
pub(crate) async fn as_body<T>(body: impl Future<Output = T>) -> T {
    let mut body = pin!(body);
    poll_fn(|cx| {
        let _back = Back(IN_BODY.replace(true));
        body.as_mut().poll(cx)
    })
    .await
}

struct Back(bool);

impl Drop for Back {
    fn drop(&mut self) {
        IN_BODY.set(self.0);
    }
}
