//! Pulls the trigger, and watches the program until it is gone.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::client::{Ask, Client};
use crate::row::{Conditions, Exit, Observation, POLL, Prestop, hang_limit, millis};
use crate::running::{self, RUN_ENV, Running};
use crate::target::Target;
use crate::trigger::{Means, Trigger};
use crate::{os, procfs};

/// Runs the preStop hook, at most for the grace, and says how long it took.
///
/// # Errors
///
/// Why the hook failed.
pub(crate) async fn prestop(conditions: &Conditions, mark: &str) -> Result<u64, String> {
    let began = Instant::now();
    match &conditions.prestop {
        Prestop::No => return Ok(0),
        Prestop::Sleep(time) => tokio::time::sleep(*time.min(&conditions.grace)).await,
        Prestop::Command(command) => {
            let mut hook = PrestopCommand::start(command, mark)?;
            let status = loop {
                if let Some(status) = os::reap(hook.0) {
                    break status;
                }
                if began.elapsed() >= conditions.grace {
                    return Err("the preStop hook took all of the grace".into());
                }
                tokio::time::sleep(POLL).await;
            };
            hook.0 = 0;
            if !status.success() {
                return Err(format!("the preStop hook failed ({})", running::told(status)));
            }
        }
    }
    Ok(millis(began.elapsed()))
}

/// A running preStop hook. Dropped, it is ended with all that it has started.
struct PrestopCommand(u32);

impl PrestopCommand {
    fn start(command: &str, mark: &str) -> Result<PrestopCommand, String> {
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(command).env(RUN_ENV, mark).stdin(std::process::Stdio::null());
        os::isolate(&mut shell);
        let child = shell.spawn().map_err(|error| format!("the preStop hook cannot be started: {error}"))?;
        Ok(PrestopCommand(child.id()))
    }
}

impl Drop for PrestopCommand {
    fn drop(&mut self) {
        if self.0 != 0 {
            os::kill_group(self.0);
            os::reap(self.0);
        }
    }
}

/// A task that ends with whoever waits for it.
pub(crate) struct Background<T>(JoinHandle<T>);

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn background<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Background<T> {
    Background(tokio::spawn(task))
}

/// What came of the request that was to end the program.
enum HookAnswer {
    Status(u16),
    /// It was sent, and the connection ended without an answer.
    Broken,
    NotSent(&'static str),
}

/// Pulls the trigger. Where that is a request, its answer is still to come.
pub(crate) fn pull(target: &Target, trigger: Trigger, process: &Running, address: SocketAddr) -> Pulled {
    match trigger.means() {
        Means::Signal(signal) => {
            os::kill(process.pid, signal);
            Pulled { repeat: None, hook: None, at: Instant::now() }
        }
        Means::Twice(signal, after) => {
            os::kill(process.pid, signal);
            Pulled { repeat: Some((signal, after)), hook: None, at: Instant::now() }
        }
        Means::Hook => {
            let ask = target.hooks.get(&trigger).cloned();
            Pulled { repeat: None, hook: ask.map(|ask| background(send(ask, address))), at: Instant::now() }
        }
    }
}

/// A trigger that was pulled, and what is to come of it.
pub(crate) struct Pulled {
    repeat: Option<(i32, Duration)>,
    hook: Option<Background<HookAnswer>>,
    pub(crate) at: Instant,
}

impl Pulled {
    /// Sends the signal again when its time has come. Only while the process was not waited for:
    /// then its pid cannot be somebody else's.
    fn repeat(&mut self, process: &Running) {
        if let Some((signal, after)) = self.repeat
            && self.at.elapsed() >= after
        {
            self.repeat = None;
            os::kill(process.pid, signal);
        }
    }

    /// Why the request did not do what it is there for, once that is known.
    async fn trouble(&mut self, trigger: Trigger) -> Option<String> {
        if !self.hook.as_ref().is_some_and(|hook| hook.0.is_finished()) {
            return None;
        }
        let mut hook = self.hook.take()?;
        match (&mut hook.0).await.ok()? {
            HookAnswer::NotSent(why) => Some(format!("the request for {trigger} could not be sent: {why}")),
            HookAnswer::Status(status @ (404 | 405 | 501)) => {
                Some(format!("the request for {trigger} was answered {status}: nothing was ended"))
            }
            HookAnswer::Status(status) if status < 500 && trigger == Trigger::PanicHandler => {
                Some(format!("the request for {trigger} was answered {status}: nothing panicked"))
            }
            HookAnswer::Status(_) | HookAnswer::Broken => None,
        }
    }
}

async fn send(ask: Ask, address: SocketAddr) -> HookAnswer {
    let mut client = match Client::connect(address, hang_limit()).await {
        Ok(client) => client,
        Err(outcome) => return HookAnswer::NotSent(outcome.name()),
    };
    match client.ask(&ask, Duration::from_secs(3600), || {}).await {
        Ok(answer) => HookAnswer::Status(answer.status),
        Err(_) => HookAnswer::Broken,
    }
}

/// Watches readiness, listener and process until it is gone, or has survived, or must be killed.
#[expect(clippy::too_many_arguments, reason = "the whole row is what it watches")]
pub(crate) async fn watch_it_end(
    target: &Target,
    trigger: Trigger,
    conditions: &Conditions,
    process: &mut Running,
    address: SocketAddr,
    began: Began,
    pulled: &mut Pulled,
    seen: &mut Observation,
) {
    let readiness = background(readiness_off(target.ready.clone(), address, began.at));
    let listening = background(listener_closed(address.port(), began.at));
    let settled = conditions.lag + Duration::from_millis(500);
    loop {
        if let Some(status) = process.poll_exit() {
            seen.exit = Some(exit(status, began.at));
            break;
        }
        if let Some(trouble) = pulled.trouble(trigger).await {
            seen.spoilt.get_or_insert(trouble);
            break;
        }
        // A program that is meant to live through it, and still answers as if nothing had been.
        if trigger.survivable()
            && began.at.elapsed() >= settled
            && !readiness.0.is_finished()
            && !listening.0.is_finished()
            && !is_stopping(process, began.ns)
        {
            seen.survived = true;
            break;
        }
        if began.at.elapsed() >= conditions.grace {
            seen.overstayed = true;
            process.end_all();
            seen.exit = process.poll_exit().map(|status| exit(status, began.at));
            break;
        }
        pulled.repeat(process);
        tokio::time::sleep(POLL).await;
    }
    seen.readiness_off_ms = settle(readiness).await;
    seen.listener_closed_ms = settle(listening).await;
}

/// When termination began, on both clocks that are in use.
#[derive(Clone, Copy)]
pub(crate) struct Began {
    pub(crate) at: Instant,
    pub(crate) ns: u64,
}

/// A program that has begun to stop its parts is on its way out. Guards and scopes come and go.
fn is_stopping(process: &Running, began_ns: u64) -> bool {
    process.ring().is_some_and(|ring| {
        let since = ring.events.iter().filter(|event| event.at_ns >= began_ns);
        let mut parts =
            since.filter(|event| !event.what.starts_with("guard @") && !event.what.starts_with("scope @"));
        parts.any(|event| event.kind != epilogue_observe::EventKind::Registered)
    })
}

async fn settle(mut task: Background<u64>) -> Option<u64> {
    if !task.0.is_finished() {
        // One more look: the process may have ended between two polls.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    if task.0.is_finished() { (&mut task.0).await.ok() } else { None }
}

async fn readiness_off(ready: Option<String>, address: SocketAddr, began: Instant) -> u64 {
    let Some(path) = ready else { return std::future::pending().await };
    loop {
        match running::status_of(address, &path).await {
            Some(status) if (200..300).contains(&status) => {}
            _ => return millis(began.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn listener_closed(port: u16, began: Instant) -> u64 {
    while !procfs::listeners(port).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    millis(began.elapsed())
}

/// Ends a program that has survived the trigger the ordinary way.
pub(crate) async fn end_survivor(process: &mut Running, grace: Duration) {
    os::kill(process.pid, libc::SIGTERM);
    let until = Instant::now() + grace;
    while process.poll_exit().is_none() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}

fn exit(status: ExitStatus, began: Instant) -> Exit {
    Exit { code: status.code(), signal: status.signal(), ms: millis(began.elapsed()) }
}
