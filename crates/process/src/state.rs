//! What everybody knows about the stop: whether it began, why, and how urgent it is.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::escalation::{Level, StopSignal};
use crate::word::Word;

/// What made the program end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[non_exhaustive]
pub enum Trigger {
    /// The body returned `Ok` and nothing serves on.
    Returned,
    /// The body returned an error.
    Failed {
        /// The error with its sources.
        error: String,
    },
    /// The body panicked.
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A spawned task panicked, under the policy to stop.
    TaskPanicked {
        /// The task's name.
        task: String,
        /// The panic's message.
        message: String,
    },
    /// A signal came.
    Signal {
        /// Its name, such as `SIGTERM`.
        name: String,
        /// Who sent it; 0 for the kernel, the terminal, or a sender outside the PID namespace.
        from_pid: i32,
    },
    /// [`App::stop`](crate::App::stop) was called.
    Asked,
    /// Another generation of the program has [taken over](crate::App::upgrade) its listeners.
    HandedOver {
        /// Its process.
        to_pid: u32,
        /// Where it listens: what listens elsewhere was not handed over.
        addresses: Vec<SocketAddr>,
        /// Where it does not, of what it was offered.
        not_taken: Vec<SocketAddr>,
    },
    /// Only the [plan](crate::App::plan) was asked for.
    Planned,
    /// Somebody called `std::process::exit`.
    ProcessExit,
}

impl Trigger {
    /// Whether this address was handed over to another generation of the program.
    pub fn has_handed_over(&self, address: SocketAddr) -> bool {
        matches!(self, Trigger::HandedOver { addresses, .. } if is_among(address, addresses))
    }

    /// Whether this address was offered to another generation of the program, which did not take it.
    pub fn has_given_up(&self, address: SocketAddr) -> bool {
        matches!(self, Trigger::HandedOver { not_taken, .. } if is_among(address, not_taken))
    }
}

fn is_among(address: SocketAddr, listeners: &[SocketAddr]) -> bool {
    listeners.iter().any(|other| {
        other.port() == address.port() && (other.ip() == address.ip() || other.ip().is_unspecified())
    })
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Returned => f.write_str("the body returned"),
            Trigger::Failed { .. } => f.write_str("the body failed"),
            Trigger::Panicked { .. } => f.write_str("the body panicked"),
            Trigger::TaskPanicked { task, .. } => write!(f, "the task {task} panicked"),
            Trigger::Signal { name, from_pid: 0 } => f.write_str(name),
            Trigger::Signal { name, from_pid } => write!(f, "{name} from pid {from_pid}"),
            Trigger::Asked => f.write_str("the program asked for it"),
            Trigger::HandedOver { to_pid, .. } => write!(f, "pid {to_pid} has taken over"),
            Trigger::Planned => f.write_str("only the plan was asked for"),
            Trigger::ProcessExit => f.write_str("process::exit was called"),
        }
    }
}

/// One moment of the stop, as a `watch` channel carries it.
#[derive(Clone, Debug)]
pub(crate) struct StopState {
    pub(crate) level: Level,
    pub(crate) skip_idle_waits: bool,
    pub(crate) begun: Option<(Trigger, Instant)>,
    /// Since when there is a hurry.
    pub(crate) hurried_at: Option<Instant>,
    /// The thread inside `process::exit`: whatever it was doing will never go on.
    pub(crate) exit_thread: Option<ThreadMark>,
}

/// A thread, as it names itself: cheap to take, also on a thread that is inside `exit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadMark(usize);

impl ThreadMark {
    pub(crate) fn here() -> ThreadMark {
        thread_local!(static MARK: u8 = const { 0 });
        ThreadMark(MARK.with(|mark| std::ptr::from_ref(mark).addr()))
    }

    pub(crate) fn is(self, word: usize) -> bool {
        self.0 == word
    }

    pub(crate) fn word(self) -> usize {
        self.0
    }
}

impl StopState {
    pub(crate) fn running() -> StopState {
        StopState {
            level: Level::Running,
            skip_idle_waits: false,
            begun: None,
            hurried_at: None,
            exit_thread: None,
        }
    }

    pub(crate) fn begun_for(trigger: Trigger, at: Instant) -> StopState {
        StopState { level: Level::Graceful, begun: Some((trigger, at)), ..StopState::running() }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.begun.is_some()
    }

    /// Why the program stops.
    pub(crate) fn why(&self) -> Trigger {
        self.begun.as_ref().map_or(Trigger::Asked, |(trigger, _)| trigger.clone())
    }
}

/// Tells a long-running piece of work that its turn to stop has come.
#[derive(Clone)]
pub struct StopToken(watch::Receiver<bool>);

impl StopToken {
    pub(crate) fn new() -> (watch::Sender<bool>, StopToken) {
        let (sender, receiver) = watch::channel(false);
        (sender, StopToken(receiver))
    }

    /// Returns when it is time to stop. Cancel safe.
    pub async fn stopped(&self) {
        // A sender that is gone means the same: nobody wants this work any more.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
    }

    /// Whether it is time to stop.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// What a stop knows: how long it has, how urgent it is; and where it leaves word.
pub struct StopCx {
    pub(crate) deadline: Instant,
    pub(crate) budget: Duration,
    pub(crate) state: watch::Receiver<StopState>,
    pub(crate) word: Arc<Word>,
    pub(crate) listen_until: ListenUntil,
}

/// So long clients may still be sent here: told by who knows them, kept by the servers.
pub(crate) type ListenUntil = Arc<Mutex<Option<Instant>>>;

impl StopCx {
    /// When this step is cut off; not before its first turn of 50 ms.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left of this step's time.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The whole budget of the stop.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// When the stop began.
    pub fn began(&self) -> Instant {
        self.state.borrow().begun.as_ref().map_or_else(Instant::now, |(_, at)| *at)
    }

    /// How urgent it is now.
    pub fn level(&self) -> Level {
        self.state.borrow().level
    }

    /// Why the program stops.
    pub fn trigger(&self) -> Trigger {
        self.state.borrow().why()
    }

    /// Whether waits that serve nobody are to be skipped: a TERM was repeated, or more.
    pub fn skip_idle_waits(&self) -> bool {
        let state = self.state.borrow();
        state.skip_idle_waits || state.level > Level::Graceful
    }

    /// The thread that called `process::exit`, if that is why the program stops.
    #[cfg(feature = "tcp")]
    pub(crate) fn exit_thread(&self) -> Option<ThreadMark> {
        self.state.borrow().exit_thread
    }

    /// Returns when the urgency changed since it was last looked at. Cancel safe.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Clients may still be sent here until then: the [servers](crate::http) that stop after this step keep their
    /// listeners open so long, within their own limits. For registries, whose readers learn late.
    pub fn keep_listening_until(&self, until: Instant) {
        let mut listen = self.listen_until.lock().unwrap_or_else(PoisonError::into_inner);
        *listen = Some(listen.map_or(until, |other| other.max(until)));
    }

    /// Until when clients may still be sent here, if anybody has said so.
    pub fn listen_until(&self) -> Option<Instant> {
        *self.listen_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a line in the report under this step.
    pub fn note(&self, line: impl Into<String>) {
        self.word.note(line.into());
    }

    /// Says how many requests, messages or connections are in flight at this moment: in the report the first figure is
    /// that of the start, the last one that of the end.
    pub fn in_flight(&self, count: usize) {
        self.word.in_flight(count);
    }

    /// Leaves word of something that was cut off; the exit status will say so.
    pub fn abandon(&self, what: impl Into<String>) {
        self.word.abandon(what.into());
    }
}

/// The state and its clock, for whoever raises the level: signals, hooks, the app itself.
pub(crate) struct StopControl {
    sender: watch::Sender<StopState>,
    escalation: Mutex<crate::escalation::Escalation>,
    born: Instant,
    pub(crate) listen_until: ListenUntil,
    seen: Mutex<VecDeque<String>>,
}

impl StopControl {
    pub(crate) fn new() -> StopControl {
        StopControl {
            sender: watch::Sender::new(StopState::running()),
            escalation: Mutex::default(),
            born: Instant::now(),
            listen_until: ListenUntil::default(),
            seen: Mutex::default(),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<StopState> {
        self.sender.subscribe()
    }

    /// Returns when the stop begins.
    pub(crate) async fn stopping(&self) {
        // The sender is `self`: it cannot be gone.
        let _ = self.watch().wait_for(|state| state.stopping()).await;
    }

    /// When the stop began, if it has.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.sender.borrow().begun.as_ref().map(|(_, at)| *at)
    }

    pub(crate) fn level(&self) -> Level {
        self.sender.borrow().level
    }

    pub(crate) fn now(&self) -> StopState {
        self.sender.borrow().clone()
    }

    /// Somebody is inside `process::exit`, on this thread.
    pub(crate) fn begin_exit(&self, thread: ThreadMark) {
        self.sender.send_modify(|state| state.exit_thread = Some(thread));
        self.begin(Trigger::ProcessExit);
    }

    /// There is nobody to wait for: every step has a second.
    pub(crate) fn hurry(&self) {
        self.sender.send_modify(|state| {
            state.level = state.level.max(Level::Hurry);
            state.hurried_at.get_or_insert_with(Instant::now);
        });
    }

    /// Begins the stop, unless it has begun: the first trigger counts.
    pub(crate) fn begin(&self, trigger: Trigger) {
        let at = Instant::now();
        self.escalation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .begin(at.saturating_duration_since(self.born));
        self.sender.send_if_modified(|state| {
            if state.begun.is_some() {
                return false;
            }
            state.level = state.level.max(Level::Graceful);
            state.begun = Some((trigger, at));
            true
        });
    }

    /// Takes a signal into account and says what is to be done about it.
    pub(crate) fn signal(&self, signal: StopSignal, from_pid: i32) -> crate::escalation::Action {
        use crate::escalation::Action;
        let at = Instant::now().saturating_duration_since(self.born);
        let action = self.escalation.lock().unwrap_or_else(PoisonError::into_inner).signal(signal, at);
        self.see(format!("{signal} from pid {from_pid}: {action}"));
        match action {
            Action::Note => {}
            Action::SkipIdleWaits => {
                self.sender.send_modify(|state| state.skip_idle_waits = true);
            }
            Action::Raise(level) => {
                self.sender.send_modify(|state| {
                    state.level = level;
                    if level >= Level::Hurry {
                        state.hurried_at.get_or_insert_with(Instant::now);
                    }
                    if state.begun.is_none() {
                        let trigger = Trigger::Signal { name: signal.to_string(), from_pid };
                        state.begun = Some((trigger, Instant::now()));
                    }
                });
            }
        }
        action
    }

    /// Whether a signal now is an echo of the one that began the stop, or raised its level.
    pub(crate) fn echoes(&self) -> bool {
        let at = Instant::now().saturating_duration_since(self.born);
        self.escalation.lock().unwrap_or_else(PoisonError::into_inner).echoes(at)
    }

    /// Takes down a signal that is not about the stop. Returns who sent what.
    pub(crate) fn note(&self, signal: &str, from_pid: i32, what: &str) -> String {
        let from = if from_pid == 0 { signal.to_owned() } else { format!("{signal} from pid {from_pid}") };
        self.see(format!("{from}: {what}"));
        from
    }

    /// Signals seen since the program started, newest last; at most 32 are kept.
    pub(crate) fn signals_seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn see(&self, line: String) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() == 32 {
            seen.pop_front();
        }
        seen.push_back(line);
    }
}
