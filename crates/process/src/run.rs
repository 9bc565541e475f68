//! `run`: the body, then the stop, then the exit status.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epilogue_scope::Caught;
use epilogue_scope::record::Context;
use epilogue_task::{Debts, isolated_with, lane};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::app::{App, Inner};
use crate::budget::{self, Grace};
use crate::dump;
use crate::error::Error;
use crate::escalation::{Level, StopSignal};
use crate::event;
use crate::exit_hook::ExitHook;
use crate::last;
use crate::options::{ExitStyle, Options, ReportAs};
use crate::os;
use crate::report::{ExitReport, StepReport};
use crate::state::{ThreadMark, Trigger};
use crate::{inherited, program, ready, signals, stop, systemd};

/// Runs a program: its body, until it is to end; then the stop of everything the body started, in
/// reverse; then returns the exit status for `main`.
///
/// The program is to end when the body returns an error or panics; when it returns `Ok` and
/// nothing it started [serves](crate::Started::serving); when SIGINT, SIGTERM, SIGQUIT or SIGHUP
/// arrives; when [`App::stop`] or [`App::exit`] is called; and when somebody calls
/// `std::process::exit`.
///
/// # Exit status
///
/// | outcome | status |
/// |---|---|
/// | stopped as asked, everything ran | 0 |
/// | the body's own error; a code given to [`App::exit`] | 1; that code |
/// | a panic in the body, or in a task under [`TaskPanic::Stop`](crate::TaskPanic::Stop) | 101 |
/// | stopped as asked, but a cleanup failed | 123 |
/// | stopped as asked, but something was abandoned at its deadline | 124 |
/// | a third, impatient signal | death by that signal; as PID 1, 128 + its number |
/// | stopped as asked by a signal, everything ran, [`ExitStyle::Tool`] | death by that signal; as PID 1, 128 + its number |
///
/// # Signals
///
/// | signal | what it does |
/// |---|---|
/// | INT, TERM | stop |
/// | QUIT | tells on stderr what the program is at, then stops; no core file |
/// | HUP | [reloads](App::on_reload), if there is something to reload; otherwise stops |
/// | USR1 | tells on stderr what the program is at, what it owes and in which scopes; nothing stops |
/// | USR2 | starts the program anew and hands its listeners over: an [upgrade](App::upgrade) |
///
/// One that was ignored when the program began stays ignored (of TERM that is said), and a USR1 or USR2 that
/// the program has taken for itself is left to it. What a second and a third one mean is in [`escalation`](crate::escalation).
/// Those that come before `run` is polled have their default effect; to hear them from the first line of `main`
/// see [`main`](crate::main).
///
/// When something was abandoned, or the budget is over, the process is ended here and now: a
/// stuck thread would otherwise hold it while the runtime is dropped. So does a thread of tokio's that reads standard
/// input, until the budget is over; [`main`](crate::main) does not wait for it.
///
/// # Afterwards
///
/// What `main` still does when this has returned is done with the rest of the budget: 250 ms after
/// it the process is ended. A stop signal kills as by default, but for an echo of the one that was
/// obeyed: one Ctrl-C through a wrapper arrives twice.
///
/// # Cancel safety
///
/// Not cancel safe. Dropping the future in the middle leaves what was started to the exit of the
/// process (`main` returning, or `process::exit`), and stop signals have their default effect again.
/// To end it, call [`App::stop`].
///
/// # Panics
///
/// Outside a tokio runtime with time enabled. A panic of the body is caught and reported.
///
/// # Examples
///
/// ```no_run
/// use epilogue_process::{App, run};
/// use std::process::ExitCode;
///
/// #[tokio::main]
/// async fn main() -> ExitCode {
///     run(async |app: &App| {
///         app.spawn("ticker", async { std::future::pending().await });
///         app.stopping().await;
///         Ok(())
///     })
///     .await
/// }
/// ```
pub async fn run<F>(body: F) -> ExitCode
where
    F: AsyncFnOnce(&App) -> Result<(), Error>,
{
    run_with(Options::default(), body).await.0
}

/// [`run`] with settings, and with the exit report.
///
/// # Panics
///
/// As [`run`].
pub async fn run_with<F>(options: Options, body: F) -> (ExitCode, ExitReport)
where
    F: AsyncFnOnce(&App) -> Result<(), Error>,
{
    let app = new_app(options);
    let signals = app.inner.options.owns_process.then(|| listen(&app.inner));
    let report = run_listening(&app, signals.flatten(), body).await;
    die_if_told(&app.inner.options, &report);
    (ExitCode::from(report.code), report)
}

pub(crate) fn new_app(options: Options) -> App {
    if options.owns_process && options.environment {
        inherited::look_now();
        program::program();
        systemd::is_the_units_process();
    }
    let grace = options.grace.clone().unwrap_or_else(|| discover_grace(options.environment));
    App::new(options, grace)
}

/// Hears signals from now on, on behalf of a run that is about to begin.
pub(crate) fn listen(inner: &Arc<Inner>) -> Option<os::Signals> {
    let theirs = Arc::clone(inner);
    os::listen(move |received| signals::on_signal(&theirs, received))
        .inspect_err(|error| os::say(&format!("epilogue: signals keep their default effect: {error}")))
        .ok()
}

/// The run itself, of a program that hears its signals already.
pub(crate) async fn run_listening<F>(app: &App, signals: Option<os::Signals>, body: F) -> ExitReport
where
    F: AsyncFnOnce(&App) -> Result<(), Error>,
{
    let process = app.inner.options.owns_process.then(|| OwnedProcess::take(&app.inner, signals));
    app.inner.reload.attach(Handle::current());

    let debts = Debts::new();
    let end = drive_body(app, debts.clone(), body).await;
    let (trigger, body_dropped) = settle_trigger(&app.inner, end).await;
    if !stop::claim(&app.inner) {
        // The exit hook drives the stop, and the process ends when it is done.
        std::future::pending::<()>().await;
    }
    let _given_back = GiveBack(&app.inner);
    if stop::spare_runtime().is_none() {
        app.inner.run_thread.store(ThreadMark::here().word(), Ordering::Release);
    }
    stop::announce(&app.inner);
    settle_reload(&app.inner).await;
    // What futures of the body owed when they were dropped may need what the body has started.
    stop::settle_debts(&app.inner, &debts).await;
    let steps = stop::pay(&app.inner).await;
    let report = conclude(&app.inner, trigger, body_dropped, steps).await;
    if let Some(process) = process {
        process.leave(&report).await;
    }
    report
}

/// Ends a tool that a signal has stopped, once it has stopped completely.
pub(crate) fn die_if_told(options: &Options, report: &ExitReport) {
    if let Some(signal) = dies_of(options, report) {
        // What a plain exit would have written. Somebody may hold the lock for ever.
        let flush = std::thread::spawn(|| std::io::stdout().flush());
        let until = std::time::Instant::now() + Duration::from_millis(250);
        while !flush.is_finished() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        os::die_of(signal);
    }
}

/// Puts the report together, runs what is to run last, and tells it. A body that was dropped, or never came back,
/// was starting what it gives.
pub(crate) async fn conclude(
    inner: &Arc<Inner>,
    trigger: Trigger,
    body_dropped: Option<Vec<String>>,
    steps: Vec<StepReport>,
) -> ExitReport {
    let mut report = so_far(inner);
    report.trigger = trigger;
    report.steps = steps;
    report.body_dropped = body_dropped.is_some();
    report.starting = body_dropped.unwrap_or_else(|| inner.starting.panicked());
    let own = report.code;
    report.code = exit_code(own, &report);
    event::exit(&report);
    last::pay(inner, &mut report).await;
    let own = if own == 0 { inner.code.load(Ordering::Relaxed) } else { own };
    report.cleanup_failures = epilogue_scope::report::count();
    report.code = exit_code(own, &report);
    report.total = inner.since_trigger(Instant::now());
    inner.reload.forget();
    // Whoever asked what the program is at gets the answer before the end.
    dump::told(Duration::from_secs(1));
    inner.over.store(true, Ordering::Release);
    tell(&inner.options, &report);
    report
}

/// A report of what is known without any step.
pub(crate) fn so_far(inner: &Inner) -> ExitReport {
    let state = inner.control.now();
    ExitReport {
        schema: "epilogue.exit/v1",
        trigger: state.why(),
        code: inner.code.load(Ordering::Relaxed),
        level: format!("{:?}", state.level).to_lowercase(),
        budget: inner.budget(),
        grace_from: inner.grace.from,
        total: inner.since_trigger(Instant::now()),
        steps: Vec::new(),
        body_dropped: false,
        starting: Vec::new(),
        cleanup_failures: epilogue_scope::report::count(),
        signals: inner.control.signals_seen(),
    }
}

/// A run that is dropped in the middle of its stop leaves the rest to the exit of the process.
struct GiveBack<'a>(&'a Inner);

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        if !self.0.over.load(Ordering::Acquire) {
            self.0.driven.store(false, Ordering::Release);
        }
    }
}

enum BodyEnd {
    Ended(Result<Result<(), Error>, Caught>),
    /// At its limit; what it was starting then.
    Dropped(Vec<String>),
}

async fn drive_body<F>(app: &App, debts: Debts, body: F) -> BodyEnd
where
    F: AsyncFnOnce(&App) -> Result<(), Error>,
{
    let mut body = Box::pin(isolated_with(Context::default(), debts, ready::as_body(&app.inner, body(app))));
    tokio::select! {
        biased;
        end = &mut body => return BodyEnd::Ended(end),
        () = app.inner.control.stopping() => {}
    }
    // Everyone is told at once, also while the body is still starting something.
    stop::announce(&app.inner);
    tokio::select! {
        end = &mut body => return BodyEnd::Ended(end),
        () = body_limit(&app.inner) => {}
    }
    let starting = app.inner.starting.tell();
    // What the body holds may panic while it is dropped: that must not skip the stop.
    match epilogue_scope::catch(move || drop(body)) {
        Ok(()) => BodyEnd::Dropped(starting),
        Err(caught) => BodyEnd::Ended(Err(caught)),
    }
}

/// A reload that is under way may end, as the body may, and in the same time.
async fn settle_reload(inner: &Inner) {
    let began = inner.began();
    inner.set_current("a reload", None);
    tokio::select! {
        () = inner.reload.settled() => {}
        () = stop::cut(inner, began, body_time(inner), Duration::from_secs(1)) => inner.reload.abort(),
    }
    inner.set_current("", None);
}

/// The body may go on for its own limit, or for what the steps leave of the budget; in a hurry for
/// a second.
async fn body_limit(inner: &Inner) {
    let left = inner.grace.budget().saturating_sub(inner.floors());
    let mut state = inner.control.watch();
    tokio::select! {
        () = tokio::time::sleep(body_time(inner)) => return,
        hurried = state.wait_for(|state| state.level >= Level::Hurry) => drop(hurried),
    }
    tokio::time::sleep(Duration::from_secs(1).min(left)).await;
}

fn body_time(inner: &Inner) -> Duration {
    inner.options.body_limit.min(inner.grace.budget().saturating_sub(inner.floors()))
}

/// Begins the stop if the body's end does, and waits for it if something serves on.
async fn settle_trigger(inner: &Arc<Inner>, mut end: BodyEnd) -> (Trigger, Option<Vec<String>>) {
    let dropped = match &mut end {
        BodyEnd::Dropped(starting) => Some(std::mem::take(starting)),
        BodyEnd::Ended(_) => None,
    };
    let own = match end {
        // The body has left its task, as Go's main goroutine may: the rest goes on as after a return.
        BodyEnd::Ended(Err(caught)) if caught.chain().exits_task() => {
            (!inner.stack.serves()).then_some(Trigger::Returned)
        }
        BodyEnd::Ended(Err(caught)) => {
            inner.code.store(101, Ordering::Relaxed);
            if caught.chain().links().len() > 1 {
                // The hook printed each by itself, not what overtook what.
                os::say(&format!("epilogue: the body ended in a chain of panics:\n{}", caught.chain()));
            }
            Some(Trigger::Panicked { message: caught.describe() })
        }
        BodyEnd::Ended(Ok(Err(error))) if !error.is_stopping() => {
            os::say(&format!("epilogue: error: {error}"));
            let _ = inner.code.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
            Some(Trigger::Failed { error: error.to_string() })
        }
        _ if !inner.stack.serves() => Some(Trigger::Returned),
        _ => None,
    };
    if own.as_ref().is_none_or(|own| *own == Trigger::Returned) {
        ready::begin(inner);
    }
    if let Some(trigger) = own {
        inner.control.begin(trigger);
    }
    let mut state = inner.control.watch();
    let trigger = match state.wait_for(|state| state.stopping()).await {
        Ok(state) => state.begun.clone().map_or(Trigger::Asked, |(trigger, _)| trigger),
        Err(_) => Trigger::Asked,
    };
    if let Trigger::TaskPanicked { .. } = trigger {
        inner.code.store(101, Ordering::Relaxed);
    }
    (trigger, dropped)
}

fn exit_code(own: u8, report: &ExitReport) -> u8 {
    match own {
        0 if !report.abandoned().is_empty() => 124,
        0 if report.failed() => 123,
        code => code,
    }
}

fn tell(options: &Options, report: &ExitReport) {
    let bad = report.failed() || !report.abandoned().is_empty();
    if options.owns_process && (bad || !options.quiet) {
        // A closed stderr leaves nobody to tell.
        let _ = std::io::stderr().write_all(os::signed(&told(options, report)).as_bytes());
    }
    if let Some(path) = &options.report_file
        && let Err(error) = report.write_json(path)
    {
        let path = path.display();
        os::say(&format!("epilogue: the exit report could not be written to {path}: {error}"));
    }
}

fn told(options: &Options, report: &ExitReport) -> String {
    match options.report_as {
        ReportAs::Text => report.to_string(),
        ReportAs::Line => report.line() + "\n",
        ReportAs::Json => serde_json::to_string(report).unwrap_or_else(|error| error.to_string()) + "\n",
    }
}

fn discover_grace(environment: bool) -> Grace {
    let env = |name: &str| std::env::var(name).ok().filter(|value| environment && !value.is_empty());
    let is_pid_1 = std::process::id() == 1;
    let wrong = match Grace::discover(env, is_pid_1) {
        Ok(grace) if env(budget::GRACE_ENV).is_some() => return grace,
        not_stated => not_stated.err(),
    };
    let of_systemd = environment.then(systemd::stop_timeout).flatten();
    let of_systemd = of_systemd.map(|time| Grace { time, from: "systemd's TimeoutStopSec" });
    let grace = of_systemd.unwrap_or_else(|| Grace::of_the_platform(env, is_pid_1));
    if let Some(wrong) = wrong {
        let Grace { time, from } = &grace;
        os::say(&format!(
            "epilogue: {}: {wrong}; it is left aside, the grace is {time:.1?} ({from})",
            budget::GRACE_ENV
        ));
    }
    grace
}

/// What a run holds of its process: signals, the exit hook, and the certainty of leaving.
struct OwnedProcess {
    inner: Arc<Inner>,
    signals: Option<os::Signals>,
    hook: Option<ExitHook>,
    /// This runtime runs the async cleanups of dropped futures.
    lane: Option<lane::Adopted>,
}

/// Runs of this process so far: the thread that watches the budget of one must not end the next.
static RUNS: AtomicU64 = AtomicU64::new(0);

impl OwnedProcess {
    fn take(inner: &Arc<Inner>, signals: Option<os::Signals>) -> OwnedProcess {
        if inner.options.environment
            && let Err(error) = epilogue_observe::record_to_env()
        {
            os::say(&format!("epilogue: not recorded: {error}"));
        }
        if inner.options.list_scopes || (inner.options.environment && says_yes("EPILOGUE_SCOPES")) {
            dump::list_scopes();
        }
        let run = RUNS.fetch_add(1, Ordering::AcqRel) + 1;
        leave_in_time(inner, run);
        if inner.options.panic_hook {
            crate::panic_hook::set();
        }
        let hook = ExitHook::arm(inner);
        if hook.is_some() {
            let theirs = Arc::downgrade(inner);
            epilogue_task::on_task_panic(Some(Arc::new(move |task, message| {
                if let Some(inner) = theirs.upgrade() {
                    let (task, message) = (task.to_owned(), message.to_owned());
                    inner.control.begin(Trigger::TaskPanicked { task, message });
                }
            })));
            lane::waited_for_elsewhere(true);
        }
        let lane = Some(lane::adopt(Handle::current()));
        OwnedProcess { inner: Arc::clone(inner), signals, hook, lane }
    }

    async fn leave(mut self, report: &ExitReport) {
        let exiting = self.hook.as_ref().is_some_and(ExitHook::exiting);
        // What the runtime drops from now on is for the lane's own thread, and its own exit handler.
        self.lane = None;
        // Lets the thread inside `exit` go on, if there is one: it ends the process, with its code.
        self.hook = None;
        if exiting {
            std::future::pending::<()>().await;
        }
        if !report.abandoned().is_empty() {
            os::exit_now(report.code);
        }
        self.signals = None;
    }
}

/// The signal that a tool dies of once it has stopped completely.
fn dies_of(options: &Options, report: &ExitReport) -> Option<StopSignal> {
    let Trigger::Signal { name, .. } = &report.trigger else { return None };
    let tool = options.owns_process && options.exit_style == ExitStyle::Tool && report.code == 0;
    StopSignal::ALL.into_iter().find(|signal| tool && signal.to_string() == *name)
}

/// Whether a variable is set, and to something else than nothing or 0.
fn says_yes(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        // Without a conclusion the future of `run` was dropped: signals kill as by default from now
        // on, and what was started is stopped when the process exits.
        let concluded = self.inner.over.swap(true, Ordering::AcqRel);
        if let Some(hook) = self.hook.take()
            && !concluded
        {
            hook.stay_armed();
        }
    }
}

/// A thread that ends the process a little after its budget, whatever holds it: a stop that blocks
/// the only worker, or a blocking thread that nobody knows of while the runtime is dropped.
fn leave_in_time(inner: &Arc<Inner>, run: u64) {
    let mut state = inner.control.watch();
    let inner = Arc::clone(inner);
    let runtime_of_run = stop::spare_runtime();
    let watch = move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
        runtime.block_on(async {
            if state.wait_for(|state| state.stopping()).await.is_err() {
                return;
            }
            let began = Instant::now();
            drive_if_nobody_does(&inner, runtime_of_run.as_ref()).await;
            loop {
                let before = inner.leaves_after();
                tokio::time::sleep_until(began + before).await;
                if inner.leaves_after() == before {
                    break;
                }
            }
            if RUNS.load(Ordering::Acquire) != run {
                return;
            }
            let mut stuck = inner.starting.tell();
            stuck.extend(Some(inner.current()).filter(|current| !current.is_empty()));
            let stuck = match stuck.is_empty() {
                true => held_by_the_runtime(&inner).to_owned(),
                false => stuck.join(", "),
            };
            os::say_now(&format!(
                "epilogue: the budget of {:.1?} is over; held by {stuck}; leaving now\n",
                inner.budget()
            ));
            os::exit_now(match inner.code.load(Ordering::Relaxed) {
                0 => 124,
                code => code,
            });
        });
    };
    if let Err(error) = std::thread::Builder::new().name("epilogue-budget".into()).spawn(watch) {
        os::say(&format!("epilogue: no thread to watch the budget: {error}"));
    }
}

fn held_by_the_runtime(inner: &Inner) -> &'static str {
    if !inner.own_runtime.load(Ordering::Relaxed) && os::threads::somebody_reads_stdin() {
        "the runtime (a blocking thread? one reads standard input, for which `epilogue::main` does not wait)"
    } else {
        "the runtime (a blocking thread?)"
    }
}

/// A body that blocks its thread keeps `run` from ever being polled again. Once its time is over the
/// stop is driven from here, and the process ended: nothing else could.
async fn drive_if_nobody_does(inner: &Arc<Inner>, runtime: Option<&Handle>) {
    body_limit(inner).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    if !stop::claim(inner) {
        return;
    }
    let trigger = inner.control.now().begun.map_or(Trigger::Asked, |(trigger, _)| trigger);
    let (theirs, runtime) = (Arc::clone(inner), runtime.cloned());
    let starting = Some(inner.starting.tell());
    let stopped =
        std::thread::spawn(move || stop::pay_elsewhere(&theirs, runtime.as_ref(), trigger, starting));
    while !stopped.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match stopped.join() {
        Ok(report) => os::exit_now(report.code),
        // A panic outside every step: there is nothing more that could be done.
        Err(_) => os::exit_now(124),
    }
}
