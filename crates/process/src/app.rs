//! The app: what a body starts things with.

use std::future::Future;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use epilogue_scope::record::{Finished, Registration};

use crate::budget::{self, Grace};
use crate::error::Error;
use crate::last::Last;
use crate::listener::Listeners;
use crate::options::Options;
use crate::part::{Part, Started, Status, Stop};
use crate::ready;
use crate::reload::Reload;
use crate::report::StepKind;
use crate::stack::{Stack, Step, let_go, status_of};
use crate::starting::Starting;
use crate::state::{StopControl, StopCx, Trigger};
use crate::stop;
use crate::systemd::Systemd;
use crate::time_left::Changes;
use crate::word::Word;

/// The running program, as its body and its parts see it. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) grace: Grace,
    pub(crate) control: StopControl,
    pub(crate) stack: Stack,
    pub(crate) code: AtomicU8,
    /// Set by whoever drives the stop: `run`, or the exit hook where `run` cannot.
    pub(crate) driven: AtomicBool,
    /// The thread that polls `run`, where only that one can; else 0.
    pub(crate) run_thread: AtomicUsize,
    /// Made for this run, whose end waits for its threads.
    pub(crate) own_runtime: AtomicBool,
    /// It was said that the stop has begun.
    pub(crate) announced: AtomicBool,
    /// Everything has started.
    pub(crate) ready: AtomicBool,
    /// Told then; nobody who comes later is.
    pub(crate) is_ready: tokio::sync::Notify,
    /// The stop is over: what `main` still does is its own affair.
    pub(crate) over: AtomicBool,
    /// What SIGHUP makes it read again.
    pub(crate) reload: Reload,
    pub(crate) starting: Starting,
    /// What runs when everything has stopped.
    pub(crate) last: Last,
    /// What another generation may take over.
    pub(crate) listeners: Listeners,
    /// Held by an upgrade that is under way.
    pub(crate) upgrading: tokio::sync::Mutex<()>,
    /// The generation that is starting; 0 for none.
    pub(crate) successor: AtomicU32,
    pub(crate) systemd: Systemd,
    pub(crate) changes: Changes,
    /// What is being stopped at this moment, for the last words of a process that is cut.
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    name: String,
    status: Option<Status>,
}

impl App {
    pub(crate) fn new(options: Options, grace: Grace) -> App {
        let systemd = Systemd::from_environment(options.owns_process && options.environment);
        App {
            inner: Arc::new(Inner {
                options,
                grace,
                control: StopControl::new(),
                stack: Stack::default(),
                code: AtomicU8::new(0),
                driven: AtomicBool::new(false),
                run_thread: AtomicUsize::new(0),
                own_runtime: AtomicBool::new(false),
                announced: AtomicBool::new(false),
                ready: AtomicBool::new(false),
                is_ready: tokio::sync::Notify::new(),
                over: AtomicBool::new(false),
                reload: Reload::default(),
                starting: Starting::default(),
                last: Last::default(),
                listeners: Listeners::default(),
                upgrading: tokio::sync::Mutex::default(),
                successor: AtomicU32::new(0),
                systemd,
                changes: Changes::default(),
                current: Mutex::default(),
            }),
        }
    }

    /// Starts a part and puts its stop on the stack. Returns its handle.
    ///
    /// # Errors
    ///
    /// What the part's start returned, with the part's name and place before it; or
    /// [stopping](Error::is_stopping) when the stop has begun, in which case the part was not started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future in the middle of the start drops the half-started part; its stop never
    /// gets on the stack. [`run`](crate::run) itself never does that because a signal came.
    #[track_caller]
    pub fn start<P: Part>(&self, part: P) -> impl Future<Output = Result<P::Handle, Error>> {
        let place = Location::caller();
        async move {
            if self.is_stopping() {
                return Err(Error::stopping());
            }
            let name = part.name();
            let under_way = self.inner.starting.begin(&name, place);
            let started = ready::as_start(part.start()).await;
            drop(under_way);
            let Started { handle, stop } =
                started.map_err(|error| error.context(format!("{name} ({place}) did not start")))?;
            self.push(name, StepKind::Part, place, stop);
            Ok(handle)
        }
    }

    /// Registers an async cleanup at this place of the stack, with no start of its own. What it
    /// returns can [disarm](Deferred::disarm) it.
    #[track_caller]
    pub fn defer<F, Fut>(&self, name: impl Into<String>, cleanup: F) -> Deferred
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let Started { stop, .. } = Started::new((), move |_| cleanup()).floor(budget::CLEANUP_FLOOR);
        let id = self.push(name.into(), StepKind::Cleanup, Location::caller(), stop);
        Deferred { app: Arc::downgrade(&self.inner), id }
    }

    /// Begins the stop. Returns at once; the first trigger counts.
    pub fn stop(&self) {
        self.inner.control.begin(Trigger::Asked);
    }

    /// Sets the code the process exits with, and begins the stop.
    pub fn exit(&self, code: u8) {
        self.inner.code.store(code, Ordering::Relaxed);
        self.stop();
    }

    /// Whether the stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.inner.control.now().stopping()
    }

    /// Returns when the stop begins. Cancel safe.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut state = self.inner.control.watch();
        let inner = Arc::downgrade(&self.inner);
        async move {
            // A body that waits for the stop has started all it will.
            if let Some(inner) = inner.upgrade()
                && ready::in_body(&inner)
            {
                ready::begin(&inner);
            }
            // The sender lives as long as the app; gone means over.
            let _ = state.wait_for(|state| state.stopping()).await;
        }
    }

    fn push(&self, name: String, kind: StepKind, place: &'static Location<'static>, stop: Stop) -> u64 {
        let id = self.inner.stack.next_id();
        self.push_step(id, name, kind, place, stop);
        id
    }

    pub(crate) fn push_step(
        &self,
        id: u64,
        name: String,
        kind: StepKind,
        place: &'static Location<'static>,
        stop: Stop,
    ) {
        let registration = Registration::new(&name, place);
        let step = Step { id, name: name.into(), kind, place, registration, stop };
        if let Err(step) = self.inner.stack.push(step) {
            return stop::stop_late(&self.inner, *step);
        }
        if self.is_stopping() {
            // It may have missed the announcement: the stop began while it was starting.
            self.inner.stack.announce(&self.inner.control.now().why());
        }
    }
}

/// A cleanup on the stack of an [`App`]. Dropped, it stays there.
#[derive(Clone)]
pub struct Deferred {
    app: Weak<Inner>,
    id: u64,
}

impl Deferred {
    /// Makes sure that the cleanup will not run. Returns whether it was pending: not so once the stop
    /// has come to it.
    pub fn disarm(&self) -> bool {
        let Some(app) = self.app.upgrade() else { return false };
        let Some(mut step) = app.stack.remove(self.id) else { return false };
        step.registration.finish(Finished::Disarmed);
        true
    }
}

impl Inner {
    /// This is being stopped from now on.
    pub(crate) fn set_current(&self, name: &str, status: Option<Status>) {
        let next = Current { name: name.to_owned(), status };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, next);
        drop(current);
        // Without the lock: it may hold anything, and panic when that is dropped.
        let_go(before.status);
    }

    pub(crate) fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).name.clone()
    }

    /// What that is busy with.
    pub(crate) fn current_status(&self) -> Vec<String> {
        let status = self.current.lock().unwrap_or_else(PoisonError::into_inner).status.clone();
        let busy = status.as_ref().map_or_else(Vec::new, status_of);
        let_go(status);
        busy
    }

    /// What a step is told that has until `deadline`.
    pub(crate) fn stop_cx(&self, deadline: tokio::time::Instant, word: Arc<Word>) -> StopCx {
        StopCx {
            deadline,
            budget: self.budget(),
            state: self.control.watch(),
            word,
            listen_until: Arc::clone(&self.control.listen_until),
        }
    }

    /// From what began the stop to this moment.
    pub(crate) fn since_trigger(&self, now: tokio::time::Instant) -> Duration {
        self.control.began().map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    pub(crate) fn floors(&self) -> Duration {
        self.stack.floors() + self.last.floors()
    }
}
