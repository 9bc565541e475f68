//! A part that can be stopped and started again by itself, at its place in the stack.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::os;
use crate::part::{BoxFuture, Part, Started, Status, Stop};
use crate::stack::{status_of, tell};
use crate::state::{StopCx, StopState, Trigger};

/// A part that [`Restart::restart`] stops and starts again, by calling `start` once more.
///
/// Its place in the stack, its floor, its caps and whether it serves stay those of the first start.
///
/// # Examples
///
/// ```
/// # use epilogue_process::{App, Error, Options, Started, restartable, run_with};
/// # use std::sync::atomic::{AtomicU32, Ordering};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// static STARTS: AtomicU32 = AtomicU32::new(0);
/// run_with(Options::embedded(), async |app: &App| {
///     let pool = app
///         .start(restartable("pool", || async {
///             let number = STARTS.fetch_add(1, Ordering::Relaxed);        // … connects
///             Ok(Started::new(number, async |_| Ok(())))
///         }))
///         .await?;
///     assert_eq!(pool.get(), Some(0));
///     pool.restart().await?;                  // the password was changed
///     assert_eq!(pool.get(), Some(1));
///     Ok(())
/// })
/// .await;
/// # }
/// ```
pub fn restartable<H, F, Fut>(name: impl Into<String>, start: F) -> Restartable<H>
where
    H: Clone + Send + Sync + 'static,
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Started<H>, Error>> + Send + 'static,
{
    Restartable { name: name.into(), start: Box::new(move || Box::pin(start())) }
}

type StartFn<H> = Box<dyn Fn() -> BoxFuture<Result<Started<H>, Error>> + Send + Sync>;

/// What [`restartable`] makes.
#[must_use = "nothing starts until it is started: app.start(restartable(…)).await?"]
pub struct Restartable<H> {
    name: String,
    start: StartFn<H>,
}

/// A running part that can be restarted. Clones are of the same one.
pub struct Restart<H>(Arc<Shared<H>>);

impl<H> Clone for Restart<H> {
    fn clone(&self) -> Restart<H> {
        Restart(Arc::clone(&self.0))
    }
}

struct Shared<H> {
    name: String,
    start: StartFn<H>,
    handle: watch::Sender<Option<H>>,
    slot: Mutex<Slot>,
    /// Held by whoever stops or starts it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Slot {
    /// How it stops, while it runs.
    stop: Option<Stop>,
    /// The program is stopping, for this reason.
    told: Option<Trigger>,
}

/// How long the stop of a part may take in a restart, if it has no cap of its own.
const LIMIT: Duration = Duration::from_secs(10);

impl<H: Clone> Restart<H> {
    /// The handle of the part that is running; `None` while it restarts, or when that failed.
    pub fn get(&self) -> Option<H> {
        self.0.handle.borrow().clone()
    }

    /// Returns the handle once there is one. Cancel safe.
    pub async fn running(&self) -> H {
        let mut handle = self.0.handle.subscribe();
        match handle.wait_for(Option::is_some).await.map(|handle| handle.clone()) {
            Ok(Some(handle)) => handle,
            // The sender is in `self`, and what is waited for is there.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl<H: Send + Sync + 'static> Restart<H> {
    /// Stops the part, within its cap or 10 s, and starts it again. What went wrong with its stop is said on stderr.
    /// Two at once take turns; a stop of the program waits for the one that is under way.
    ///
    /// # Errors
    ///
    /// What its start returned: it does not run then, and may be restarted once more.
    /// [Stopping](Error::is_stopping) once the program does, and then nothing was done.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it stops, the stop goes on. Dropped while it starts, it does not run.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn restart(&self) -> Result<(), Error> {
        let turn = Arc::clone(&self.0.turn).lock_owned().await;
        if self.0.slot().told.is_some() {
            return Err(Error::stopping());
        }
        self.0.handle.send_replace(None);
        let old = self.0.slot().stop.take();
        let name = self.0.name.clone();
        // A task of its own, with the turn: it goes on when nobody waits for it any more.
        let stopped = tokio::spawn(async move {
            if let Some(stop) = old {
                stop_old(&name, stop).await;
            }
            turn
        });
        let _turn = stopped.await.map_err(|error| Error::msg(format!("{}: {error}", self.0.name)))?;
        let started = (self.0.start)().await;
        let started =
            started.map_err(|error| error.context(format!("{} did not start again", self.0.name)))?;
        self.0.put(started);
        Ok(())
    }
}

async fn stop_old(name: &str, stop: Stop) {
    let limit = stop.cap.unwrap_or(LIMIT);
    if let Some(notice) = stop.notice {
        tell(notice, &Trigger::Asked);
    }
    let now = Instant::now();
    let (_state, seen) = watch::channel(StopState::begun_for(Trigger::Asked, now));
    let cx = StopCx {
        deadline: now.checked_add(limit).unwrap_or(now + LIMIT),
        budget: limit,
        state: seen,
        word: Arc::default(),
        listen_until: Arc::default(),
    };
    crate::stack::let_go(stop.status);
    let run = stop.run;
    let mut running = tokio::spawn(async move { run(cx).await });
    let why = tokio::select! {
        stopped = &mut running => match stopped {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => format!("its stop {}", if error.is_panic() { "panicked" } else { "was cut" }),
        },
        () = tokio::time::sleep(limit) => {
            running.abort();
            format!("it did not stop within {limit:?}")
        }
    };
    os::say(&format!("epilogue: restart of {name}: {why}; it is started again all the same"));
}

impl<H: Clone + Send + Sync + 'static> Part for Restartable<H> {
    type Handle = Restart<H>;

    fn name(&self) -> String {
        self.name.clone()
    }

    async fn start(self) -> Result<Started<Restart<H>>, Error> {
        let Restartable { name, start } = self;
        let first = start().await?;
        let shared = Arc::new(Shared {
            name,
            start,
            handle: watch::Sender::new(None),
            slot: Mutex::default(),
            turn: Arc::default(),
        });
        let stop = shared.stop(&first.stop);
        shared.put(first);
        Ok(Started { handle: Restart(shared), stop })
    }
}

impl<H: Send + Sync + 'static> Shared<H> {
    /// How whatever runs is stopped with the program.
    fn stop(self: &Arc<Self>, first: &Stop) -> Stop {
        let (stops, told, asked) = (Arc::clone(self), Arc::clone(self), Arc::clone(self));
        let status: Status = Arc::new(move || {
            let status = asked.slot().stop.as_ref().and_then(|stop| stop.status.clone());
            status.map_or_else(Vec::new, |status| status_of(&status))
        });
        Stop {
            run: Box::new(move |cx| Box::pin(async move { stops.stop_for_good(cx).await })),
            notice: Some(Box::new(move |why| told.told(why))),
            status: Some(status),
            floor: first.floor,
            cap: first.cap,
            hurry_cap: first.hurry_cap,
            serves: first.serves,
        }
    }

    async fn stop_for_good(&self, cx: StopCx) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.handle.send_replace(None);
        let stop = self.slot().stop.take();
        match stop {
            Some(stop) => (stop.run)(cx).await,
            None => {
                cx.note("was not running");
                Ok(())
            }
        }
    }

    /// The program is stopping: what runs is told, and what is starting will be.
    fn told(&self, why: &Trigger) {
        let notice = {
            let mut slot = self.slot();
            slot.told = Some(why.clone());
            slot.stop.as_mut().and_then(|stop| stop.notice.take())
        };
        if let Some(notice) = notice {
            tell(notice, why);
        }
    }

    fn put(&self, mut started: Started<H>) {
        let late = {
            let mut slot = self.slot();
            let why = slot.told.clone();
            let late = why.and_then(|why| Some((started.stop.notice.take()?, why)));
            slot.stop = Some(started.stop);
            late
        };
        if let Some((notice, why)) = late {
            tell(notice, &why);
        }
        self.handle.send_replace(Some(started.handle));
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
