//! Parts: things that start and stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::budget;
use crate::error::Error;
use crate::optional::{Optional, StartWithin};
use crate::state::{StopCx, Trigger};

/// Something that starts, yields a handle to use it by, and says how it stops.
///
/// The stop is part of what `start` returns, so the pair cannot be half-written. Use [`part`] for
/// one-off parts; implement the trait for a part with settings of its own.
pub trait Part {
    /// What the rest of the program uses: a pool, a sender, an address.
    type Handle;

    /// The name in reports and records.
    fn name(&self) -> String;

    /// Starts it. An error here stops what had started before, in reverse.
    fn start(self) -> impl Future<Output = Result<Started<Self::Handle>, Error>>;

    /// The program goes on without it when its start fails: its handle is `None` then, and the report says why.
    ///
    /// # Examples
    ///
    /// ```
    /// # use epilogue_process::{App, Error, Options, Part, Started, part, run_with};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (_, report) = run_with(Options::embedded(), async |app: &App| {
    ///     let cache = part("cache", async || Err::<Started<()>, _>(Error::msg("connection refused")));
    ///     let cache = app.start(cache.start_within(Duration::from_secs(5)).optional()).await?;
    ///     assert!(cache.is_none());
    ///     Ok(())
    /// })
    /// .await;
    /// assert_eq!(report.code, 0);
    /// assert_eq!(report.steps[0].notes, ["had not started: connection refused"]);
    /// # }
    /// ```
    fn optional(self) -> Optional<Self>
    where
        Self: Sized,
    {
        Optional(self)
    }

    /// Its start fails when it takes longer: its future is dropped in the middle, and with it goes what it has
    /// already made.
    fn start_within(self, limit: Duration) -> StartWithin<Self>
    where
        Self: Sized,
    {
        StartWithin { part: self, limit }
    }
}

/// A part from a closure.
///
/// # Examples
///
/// ```
/// # use epilogue_process::{App, Error, Options, Started, part, run_with};
/// # use std::sync::Arc;
/// # async fn example(app: &App) -> Result<(), Error> {
/// let queue = app
///     .start(part("queue", async || {
///         let queue = Arc::new(String::from("a real one connects here"));
///         let closing = queue.clone();
///         Ok(Started::new(queue, async move |_| {
///             drop(closing);
///             Ok(())
///         }))
///     }))
///     .await?;
/// # let _ = queue; Ok(()) }
/// ```
pub fn part<H, F>(name: impl Into<String>, start: F) -> FnPart<F>
where
    F: AsyncFnOnce() -> Result<Started<H>, Error>,
{
    FnPart { name: name.into(), start }
}

/// What [`part`] makes.
pub struct FnPart<F> {
    name: String,
    start: F,
}

impl<H, F: AsyncFnOnce() -> Result<Started<H>, Error>> Part for FnPart<F> {
    type Handle = H;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn start(self) -> impl Future<Output = Result<Started<H>, Error>> {
        (self.start)()
    }
}

/// A part that has started: its handle, and how it stops.
#[must_use = "a started part that is dropped is never stopped"]
pub struct Started<H> {
    pub(crate) handle: H,
    pub(crate) stop: Stop,
}

/// A future whose type is not named.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// How a part stops, once.
pub type StopFn = Box<dyn FnOnce(StopCx) -> BoxFuture<Result<(), Error>> + Send>;
pub(crate) type Notice = Box<dyn FnOnce(&Trigger) + Send>;
pub(crate) type Status = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

pub(crate) struct Stop {
    pub(crate) run: StopFn,
    pub(crate) notice: Option<Notice>,
    pub(crate) status: Option<Status>,
    pub(crate) floor: Duration,
    pub(crate) cap: Option<Duration>,
    pub(crate) hurry_cap: Duration,
    pub(crate) serves: bool,
}

impl<H> Started<H> {
    /// The handle, and what stops the part. The stop runs on another task than the start, so it owns what it
    /// uses; it is cut off at [`StopCx::deadline`].
    pub fn new<F, Fut>(handle: H, stop: F) -> Started<H>
    where
        F: FnOnce(StopCx) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let stop = Stop {
            run: Box::new(move |cx| Box::pin(stop(cx))),
            notice: None,
            status: None,
            floor: budget::FLOOR,
            cap: None,
            hurry_cap: Duration::from_secs(1),
            serves: false,
        };
        Started { handle, stop }
    }

    /// Runs the moment the stop begins, before any step: readiness off, close announced,
    /// deregistration begun. Must not block.
    pub fn on_stopping(self, notice: impl FnOnce() + Send + 'static) -> Self {
        self.on_stopping_because(move |_| notice())
    }

    /// The same, for what depends on why: who has [handed over](Trigger::HandedOver) goes on under the same
    /// address.
    pub fn on_stopping_because(mut self, notice: impl FnOnce(&Trigger) + Send + 'static) -> Self {
        self.stop.notice = Some(Box::new(notice));
        self
    }

    /// Runs something around its stop: `around` is given the stop, and awaits it or does not.
    pub fn around_stop<F, Fut>(mut self, around: F) -> Self
    where
        F: FnOnce(StopCx, StopFn) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let stop = self.stop.run;
        self.stop.run = Box::new(move |cx| Box::pin(around(cx, stop)));
        self
    }

    /// Tells what the part is busy with, a line each: requests in flight, who holds a connection. It is asked
    /// when somebody wants to know ([SIGUSR1](crate::run#signals)), and when its stop is cut off. Must not
    /// block.
    pub fn status(mut self, status: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        self.stop.status = Some(Arc::new(status));
        self
    }

    /// The part serves until it is told to stop: the program does not end when its body returns.
    pub fn serving(mut self) -> Self {
        self.stop.serves = true;
        self
    }

    /// The longest its stop may take, budget or not; a first turn of 50 ms apart.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.stop.cap = Some(cap);
        self
    }

    /// What earlier steps leave to this one in any case; 250 ms unless set.
    pub fn floor(mut self, floor: Duration) -> Self {
        self.stop.floor = floor;
        self
    }

    /// The longest its stop may take once somebody is in a [hurry](crate::escalation::Level::Hurry);
    /// 1 s unless set.
    pub fn hurry_cap(mut self, cap: Duration) -> Self {
        self.stop.hurry_cap = cap;
        self
    }
}
