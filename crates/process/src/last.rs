//! What runs after everything else, and knows how that went: the flush of logs, metrics and traces.

use std::future::Future;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epilogue_scope::record::Registration;

use crate::app::{App, Inner};
use crate::budget;
use crate::error::Error;
use crate::part::Started;
use crate::plan::PlannedStep;
use crate::report::{ExitReport, StepKind};
use crate::stack::Step;
use crate::stop;

/// In the order in which they were registered.
#[derive(Default)]
pub(crate) struct Last {
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    pending: Vec<Pending>,
    /// The last one was taken: nobody would come to a further one.
    closed: bool,
}

struct Pending {
    name: String,
    place: &'static Location<'static>,
    registration: Registration,
    run: Run,
}

type Run = Box<dyn FnOnce(Arc<ExitReport>) -> crate::part::BoxFuture<Result<(), Error>> + Send>;

impl App {
    /// Registers a cleanup that runs after everything else has stopped, whatever was started before it, and knows
    /// how that went: for flushing telemetry, which is to tell of the stop as well. Several run newest first. Each
    /// is kept 500 ms.
    ///
    /// # Examples
    ///
    /// ```
    /// # use epilogue_process::{App, Options, run_with};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (_, report) = run_with(Options::embedded(), async |app: &App| {
    ///     app.defer_last("telemetry", async |report| {
    ///         assert_eq!(report.steps[0].name, "connection");
    ///         Ok(())                                     // … provider.force_flush()
    ///     });
    ///     app.defer("connection", async || Ok(()));
    ///     Ok(())
    /// })
    /// .await;
    /// let order: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    /// assert_eq!(order, ["connection", "telemetry"]);
    /// # }
    /// ```
    #[track_caller]
    pub fn defer_last<F, Fut>(&self, name: impl Into<String>, cleanup: F)
    where
        F: FnOnce(Arc<ExitReport>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let (name, place) = (name.into(), Location::caller());
        let registration = Registration::new(&name, place);
        let run: Run = Box::new(move |report| Box::pin(cleanup(report)));
        let pending = Pending { name, place, registration, run };
        let mut last = self.inner.last.lock();
        if !last.closed {
            return last.pending.push(pending);
        }
        drop(last);
        let so_far = Arc::new(crate::run::so_far(&self.inner));
        stop::stop_late(&self.inner, pending.into_step(so_far));
    }
}

/// Runs them, and puts them into the report.
pub(crate) async fn pay(inner: &Arc<Inner>, report: &mut ExitReport) {
    while let Some(pending) = inner.last.pop() {
        let step = pending.into_step(Arc::new(report.clone()));
        inner.set_current(&step.name, None);
        let limit = budget::limit(inner.time_left(), budget::CLEANUP_FLOOR, None, inner.last.floors());
        report.steps.push(stop::stop_one(inner, step, limit, inner.first_turn()).await);
    }
    inner.set_current("", None);
}

impl Pending {
    fn into_step(self, report: Arc<ExitReport>) -> Step {
        let Pending { name, place, registration, run } = self;
        let Started { stop, .. } = Started::new((), move |_| run(report)).floor(budget::CLEANUP_FLOOR);
        Step { id: 0, name: name.as_str().into(), kind: StepKind::Cleanup, place, registration, stop }
    }
}

impl Last {
    fn pop(&self) -> Option<Pending> {
        let mut all = self.lock();
        let popped = all.pending.pop();
        all.closed = popped.is_none();
        popped
    }

    pub(crate) fn floors(&self) -> Duration {
        budget::CLEANUP_FLOOR * u32::try_from(self.lock().pending.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.lock()
            .pending
            .iter()
            .rev()
            .map(|pending| format!("{} ({})", pending.name, pending.place))
            .collect()
    }

    pub(crate) fn plan(&self) -> Vec<PlannedStep> {
        let planned = |pending: &Pending| {
            PlannedStep::new(&pending.name, StepKind::Cleanup, pending.place, budget::CLEANUP_FLOOR)
        };
        self.lock().pending.iter().rev().map(planned).collect()
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
