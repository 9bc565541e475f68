//! Parts that fail: on purpose, and each in its turn.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epilogue_process::{App, Error, ExitReport, Options, Part, Started, run_with};

/// What goes wrong with a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Its start returns an error.
    StartFails,
    /// Its start panics.
    StartPanics,
    /// Its start never returns.
    StartHangs,
    /// Its start takes so long, and goes well.
    StartTakes(Duration),
    /// It starts, and its stop returns an error once it has stopped.
    StopFails,
    /// Its stop panics once it has stopped.
    StopPanics,
    /// Its stop never returns, and has not stopped anything.
    StopHangs,
    /// Its stop takes so much longer, or half of what it may take.
    StopTakes(Duration),
}

impl Fault {
    /// One of each sort; what is slow takes a second.
    pub const ALL: [Fault; 8] = [
        Fault::StartFails,
        Fault::StartPanics,
        Fault::StartHangs,
        Fault::StartTakes(Duration::from_secs(1)),
        Fault::StopFails,
        Fault::StopPanics,
        Fault::StopHangs,
        Fault::StopTakes(Duration::from_secs(1)),
    ];

    /// Whether with it the part never comes to run.
    pub fn is_of_the_start(self) -> bool {
        matches!(self, Fault::StartFails | Fault::StartPanics | Fault::StartHangs)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::StartFails => f.write_str("its start fails"),
            Fault::StartPanics => f.write_str("its start panics"),
            Fault::StartHangs => f.write_str("its start hangs"),
            Fault::StartTakes(time) => write!(f, "its start takes {time:?}"),
            Fault::StopFails => f.write_str("its stop fails"),
            Fault::StopPanics => f.write_str("its stop panics"),
            Fault::StopHangs => f.write_str("its stop hangs"),
            Fault::StopTakes(time) => write!(f, "its stop takes {time:?}"),
        }
    }
}

/// A part with this fault.
pub fn faulty<P: Part>(part: P, fault: Fault) -> Faulty<P> {
    Faulty { part, fault: Some(fault), seen: None }
}

/// What [`faulty`] and [`Faults::part`] make.
pub struct Faulty<P> {
    part: P,
    fault: Option<Fault>,
    seen: Option<(Faults, usize)>,
}

impl<P: Part> Part for Faulty<P> {
    type Handle = P::Handle;

    fn name(&self) -> String {
        self.part.name()
    }

    async fn start(self) -> Result<Started<P::Handle>, Error> {
        let Faulty { part, fault, seen } = self;
        match fault {
            Some(Fault::StartFails) => return Err(Error::msg("injected: its start fails")),
            // Without the hook, which would print it.
            Some(Fault::StartPanics) => std::panic::resume_unwind(Box::new("injected: its start panics")),
            Some(Fault::StartHangs) => std::future::pending().await,
            Some(Fault::StartTakes(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        let started = part.start().await?;
        if let Some((faults, at)) = &seen {
            faults.lock().parts[*at].started = true;
        }
        Ok(started.around_stop(move |cx, stop| async move {
            match fault {
                Some(Fault::StopHangs) => std::future::pending().await,
                // A part that has no time for it is not to be cut for it.
                Some(Fault::StopTakes(time)) => tokio::time::sleep(time.min(cx.remaining() / 2)).await,
                _ => {}
            }
            let stopped = stop(cx).await;
            if let Some((faults, at)) = &seen {
                faults.lock().parts[*at].stops += 1;
            }
            match fault {
                Some(Fault::StopFails) => Err(Error::msg("injected: its stop fails")),
                Some(Fault::StopPanics) => std::panic::resume_unwind(Box::new("injected: its stop panics")),
                _ => stopped,
            }
        }))
    }
}

/// The faults of one run: at most one, at one part.
#[derive(Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Which part, in the order in which they come, and what.
    wanted: Option<(usize, Fault)>,
    parts: Vec<Seen>,
}

#[derive(Default)]
struct Seen {
    name: String,
    started: bool,
    stops: u32,
}

impl Faults {
    /// The part, with its fault if this run has one for it.
    pub fn part<P: Part>(&self, part: P) -> Faulty<P> {
        let mut state = self.lock();
        let at = state.parts.len();
        state.parts.push(Seen { name: part.name(), ..Seen::default() });
        let fault = state.wanted.filter(|(wanted, _)| *wanted == at).map(|(_, fault)| fault);
        Faulty { part, fault, seen: Some((self.clone(), at)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One run of [`each_fault`].
#[derive(Debug)]
#[non_exhaustive]
pub struct FaultRun {
    /// The part that had a fault, and what it was; of the first run none.
    pub fault: Option<(String, Fault)>,
    /// How the run went.
    pub report: ExitReport,
    /// What broke the law: a part that had started and was not stopped, or more than once.
    pub broken: Vec<String>,
}

/// Runs a program without a fault, and then once for each of [`Fault::ALL`] in each part that it hands to
/// [`Faults::part`]. In each run every part that has started has to be stopped exactly once, but for one whose stop
/// hangs, and within the budget: whatever was not is in [`broken`](FaultRun::broken).
///
/// # Examples
///
/// ```
/// use epilogue_process::{App, Options, Started, part};
/// use epilogue_testkit::{Faults, each_fault};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let runs = each_fault(Options::embedded, async |app: &App, faults: &Faults| {
///     let pool = part("pool", async || Ok(Started::new((), async |_| Ok(()))));
///     app.start(faults.part(pool)).await?;
///     let queue = part("queue", async || Ok(Started::new((), async |_| Ok(()))));
///     app.start(faults.part(queue)).await?;
///     app.stop();
///     Ok(())
/// })
/// .await;
/// assert_eq!(runs.len(), 1 + 2 * 8);
/// for run in runs {
///     assert!(run.broken.is_empty(), "{:?}: {:?}\n{}", run.fault, run.broken, run.report);
/// }
/// # }
/// ```
pub async fn each_fault(
    options: impl Fn() -> Options,
    body: impl AsyncFn(&App, &Faults) -> Result<(), Error>,
) -> Vec<FaultRun> {
    let (first, parts) = one(options(), &body, None).await;
    let mut runs = vec![first];
    for at in 0..parts {
        for fault in Fault::ALL {
            runs.push(one(options(), &body, Some((at, fault))).await.0);
        }
    }
    runs
}

async fn one(
    options: Options,
    body: &impl AsyncFn(&App, &Faults) -> Result<(), Error>,
    wanted: Option<(usize, Fault)>,
) -> (FaultRun, usize) {
    let faults = Faults::default();
    faults.lock().wanted = wanted;
    let stopper = async |app: &App| {
        // Somebody stops a program whose start hangs.
        let (app, hangs) = (app.clone(), wanted.is_some_and(|(_, fault)| fault == Fault::StartHangs));
        if hangs {
            tokio::time::sleep(Duration::from_secs(10)).await;
            app.stop();
        }
        std::future::pending::<()>().await;
    };
    let (_, report) = run_with(options, async |app: &App| {
        tokio::select! {
            ended = body(app, &faults) => ended,
            () = stopper(app) => Ok(()),
        }
    })
    .await;
    let state = faults.lock();
    let mut broken = Vec::new();
    for (at, part) in state.parts.iter().enumerate() {
        let hangs = wanted == Some((at, Fault::StopHangs));
        let expected = u32::from(part.started && !hangs);
        if part.stops != expected {
            broken.push(format!("{} was stopped {} times, not {expected}", part.name, part.stops));
        }
    }
    if let Some((at, fault)) = wanted
        && at >= state.parts.len()
    {
        broken.push(format!("part {at} was not reached: that {fault} was not tried"));
    }
    if report.total > report.budget {
        broken.push(format!("it took {:?} of a budget of {:?}", report.total, report.budget));
    }
    let fault = wanted
        .map(|(at, fault)| (state.parts.get(at).map_or_else(String::new, |part| part.name.clone()), fault));
    let run = FaultRun { fault, report, broken };
    let parts = state.parts.len();
    drop(state);
    (run, parts)
}
