//! Upgrade: another generation of the program takes over the listeners, and this one stops when it is ready.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::app::{App, Inner};
use crate::error::Error;
use crate::inherited::{self, HANDED_ENV};
use crate::os::{self, descriptors};
use crate::program::{Program, program};
use crate::ready;
use crate::state::Trigger;

/// How long one that has closed its pipe may take to end.
const MOMENT: Duration = Duration::from_secs(2);

impl App {
    /// Starts the program anew, with the same arguments, and hands its listeners over to the new generation: those
    /// that [`listener`](App::listener) has made. When that is [ready](App::ready) this one stops, its servers
    /// without waiting for routers to notice: clients find the new generation under the same address, and what the
    /// kernel has queued there is the new one's. SIGUSR2 does the same. Returns the new generation's pid, with
    /// the stop under way.
    ///
    /// While this generation is itself still starting, that is waited for first; a body that calls this says that it
    /// has [started](App::ready). One upgrade is under way at a time: whoever asks meanwhile waits for it, and gets
    /// its pid if it takes over.
    ///
    /// The program that is started is what is found now under the name that this one was started by, as a path or by
    /// `PATH`, in the directory and with the environment that it was started with; so a file that was replaced, or a
    /// link that leads elsewhere by now, is the new version. Its `argv[0]` is that file from the root.
    ///
    /// # Errors
    ///
    /// There is nothing to hand over; the process is not this run's own; its end would be taken for that of the program:
    /// it is PID 1, the command of `epilogue run`, or of a systemd unit that is not `Type=notify`; the new generation cannot
    /// be started, ends before it is ready, or is not ready in [time](crate::Options::upgrade_limit), in which
    /// case it is ended. This one then goes on as it was. [Stopping](Error::is_stopping) once it stops.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped, a new generation that becomes ready all the same takes over beside this one.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn upgrade(&self) -> Result<u32, Error> {
        if ready::in_body(&self.inner) {
            ready::begin(&self.inner);
        }
        upgrade(&self.inner).await
    }
}

/// SIGUSR2 came. What fails is said.
pub(crate) fn begin(inner: &Arc<Inner>) {
    let Some(runtime) = inner.reload.runtime() else { return };
    let theirs = Arc::clone(inner);
    let pid = inner.successor.load(Ordering::Acquire);
    if pid != 0 {
        os::say(&format!("epilogue: upgrade: pid {pid} is still starting; tried again if it fails"));
    }
    drop(runtime.spawn(async move {
        if let Err(error) = upgrade(&theirs).await
            && !error.is_stopping()
        {
            os::say(&format!("epilogue: no upgrade: {error}; this generation goes on"));
        }
    }));
}

async fn upgrade(inner: &Arc<Inner>) -> Result<u32, Error> {
    let _turn = inner.upgrading.lock().await;
    if inner.control.now().stopping() {
        return taken_over(inner);
    }
    is_its_own(inner)?;
    if !inner.ready.load(Ordering::Acquire) {
        os::say("epilogue: upgrade: waits until this generation has started everything (App::ready)");
    }
    // Both would start what only one can have.
    if ready::wait(inner).await.is_err() || inner.control.now().stopping() {
        return taken_over(inner);
    }
    let (child, ready) = start(inner)?;
    let pid = child.id();
    os::say(&format!("epilogue: upgrade: pid {pid} is starting: {}", program().file.display()));
    let _over = Successor::is(inner, pid);
    let why = tokio::select! {
        said = on_a_thread(move || inherited::read_word(ready)) => match said.flatten() {
            Some(taken) => {
                crate::systemd::main_pid_is(inner, pid);
                let (addresses, not_taken) = inner.listeners.addresses(&taken);
                inner.control.begin(Trigger::HandedOver { to_pid: pid, addresses, not_taken });
                return Ok(pid);
            }
            // It closes the pipe when it ends.
            None => None,
        },
        () = tokio::time::sleep(inner.options.upgrade_limit) => {
            Some(Error::msg(format!("it was not ready within {:?}", inner.options.upgrade_limit)))
        }
        () = inner.control.stopping() => Some(Error::stopping()),
    };
    if why.as_ref().is_some_and(Error::is_stopping) {
        // It has a budget of its own, and whoever is to stop waits for nobody's.
        os::terminate(pid);
        return Err(Error::stopping());
    }
    let by_itself = why.is_none();
    // It may have taken on work: it gets the time that a stop of this program has.
    let patience = inner.grace.time.saturating_add(inner.options.body_limit);
    let status = on_a_thread(move || end(child, by_itself, patience)).await.flatten();
    Err(why
        .unwrap_or_else(|| Error::msg(format!("it ended before it was ready: {}", told(status))))
        .context(format!("the new generation, pid {pid}")))
}

/// What whoever asked for an upgrade gets when the stop has begun by other means: what they asked for may have happened.
fn taken_over(inner: &Inner) -> Result<u32, Error> {
    match inner.control.now().why() {
        Trigger::HandedOver { to_pid, .. } => Ok(to_pid),
        _ => Err(Error::stopping()),
    }
}

/// Whether nobody takes the end of this process for the end of the program.
fn is_its_own(inner: &Inner) -> Result<(), Error> {
    if !inner.options.owns_process || !inner.options.environment {
        return Err(Error::msg("this run is embedded in a process that is not its own to start anew"));
    }
    if std::process::id() == 1 {
        return Err(Error::msg(
            "this is PID 1, whose end is the end of its container: start another container",
        ));
    }
    if os::is_wrapped() {
        return Err(Error::msg("this is the command of `epilogue run`, whose end is the end of its scope"));
    }
    if crate::systemd::is_the_units_process() && !inner.systemd.is_there() {
        return Err(Error::msg(
            "systemd would take the end of this process for that of the service: give its unit Type=notify",
        ));
    }
    Ok(())
}

/// The generation that is starting, as long as nobody knows how that went.
struct Successor<'a>(&'a Inner);

impl Successor<'_> {
    fn is(inner: &Inner, pid: u32) -> Successor<'_> {
        inner.successor.store(pid, Ordering::Release);
        Successor(inner)
    }
}

impl Drop for Successor<'_> {
    fn drop(&mut self) {
        self.0.successor.store(0, Ordering::Release);
    }
}

/// What blocks, on a thread that no runtime waits for.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("epilogue-upgrade".into());
    thread.spawn(move || drop(tell.send(work()))).ok()?;
    told.await.ok()
}

/// Starts the next generation; gives where it says that it is ready.
fn start(inner: &Inner) -> Result<(Child, std::io::PipeReader), Error> {
    let listeners = inner.listeners.copies()?;
    if listeners.is_empty() {
        return Err(Error::msg("there is nothing to hand over: listeners come from App::listener"));
    }
    let (reader, writer) = std::io::pipe()?;
    let mut words = format!("{};{}", std::process::id(), writer.as_raw_fd());
    let mut open: Vec<OwnedFd> = vec![writer.into()];
    for (name, listener) in listeners {
        words.push_str(&format!(";{name}={}", listener.as_raw_fd()));
        open.push(listener.into());
    }
    let Program { file, directory, environment } = program();
    let mut command = Command::new(file);
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.args(std::env::args_os().skip(1)).env(HANDED_ENV, words);
    // One that has not changed it needs no right to enter it again.
    let elsewhere =
        directory.as_ref().filter(|directory| std::env::current_dir().is_ok_and(|now| now != **directory));
    if let Some(directory) = elsewhere {
        command.current_dir(directory);
    }
    os::signs_with_its_pid();
    // What was for this process alone.
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "EPILOGUE_RING"] {
        command.env_remove(name);
    }
    if crate::systemd::is_the_units_process() {
        // That is who it is the successor of.
        command.env(crate::systemd::EXEC_PID, std::process::id().to_string());
    }
    // The copies are dropped with the command: what stays open is the child's.
    descriptors::leave_open(&mut command, open);
    let child = command.spawn();
    let child = child.map_err(|error| {
        let place = elsewhere.map_or_else(String::new, |directory| format!(" in {}", directory.display()));
        Error::from(error).context(format!("{}{place}", file.display()))
    })?;
    Ok((child, reader))
}

/// Ends a generation that is not to take over.
fn end(mut child: Child, by_itself: bool, patience: Duration) -> Option<ExitStatus> {
    if by_itself && let Some(status) = ended(&mut child, MOMENT) {
        return Some(status);
    }
    os::terminate(child.id());
    ended(&mut child, patience).or_else(|| {
        let _ = child.kill();
        child.wait().ok()
    })
}

fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let began = std::time::Instant::now();
    while began.elapsed() < within {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

fn told(status: Option<ExitStatus>) -> String {
    match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        },
        None => "nobody knows how".into(),
    }
}
