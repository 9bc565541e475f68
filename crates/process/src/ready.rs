//! Ready: the moment when everything has started, and whoever waits for it is told.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::app::{App, Inner};
use crate::error::Error;
use crate::inherited;
use crate::options::PlanAs;
use crate::os;
use crate::plan::plan;
use crate::state::Trigger;

impl App {
    /// Says that everything has started. Nobody has to: it is so as soon as the body awaits
    /// [`stopping`](App::stopping), or returns while something serves. For a body that goes on with other work.
    /// (A body that already waits for the stop while it starts, in a `select!`, counts as ready from the first.)
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
    inner.is_ready.notify_waiters();
    if inner.options.plan != PlanAs::NotAsked {
        return tell_plan(inner);
    }
    if inner.options.owns_process {
        inner.systemd.ready();
        inherited::ready();
    }
}

/// Returns when everything has started.
///
/// # Errors
///
/// [Stopping](Error::is_stopping), if the stop comes first.
pub(crate) async fn wait(inner: &Inner) -> Result<(), Error> {
    let mut told = pin!(inner.is_ready.notified());
    told.as_mut().enable();
    if inner.ready.load(Ordering::Acquire) {
        return Ok(());
    }
    tokio::select! {
        () = told => Ok(()),
        () = inner.control.stopping() => Err(Error::stopping()),
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

thread_local!(static IN_BODY: Cell<usize> = const { Cell::new(0) });

/// Whether the code that is running is the body of this run: not one of its tasks, nor the start of a part, nor
/// the body of a run within it.
pub(crate) fn in_body(inner: &Arc<Inner>) -> bool {
    IN_BODY.get() == Arc::as_ptr(inner).addr()
}

/// Polls a body as what it is.
pub(crate) async fn as_body<T>(inner: &Arc<Inner>, body: impl Future<Output = T>) -> T {
    marked(Arc::as_ptr(inner).addr(), body).await
}

/// Polls the start of a part as what it is.
pub(crate) async fn as_start<T>(start: impl Future<Output = T>) -> T {
    marked(0, start).await
}

async fn marked<T>(mark: usize, part: impl Future<Output = T>) -> T {
    let mut part = pin!(part);
    poll_fn(|cx| {
        let _back = Back(IN_BODY.replace(mark));
        part.as_mut().poll(cx)
    })
    .await
}

struct Back(usize);

impl Drop for Back {
    fn drop(&mut self) {
        IN_BODY.set(self.0);
    }
}
