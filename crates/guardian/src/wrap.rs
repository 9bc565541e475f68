//! Running a command as the owner of a scope, and paying when it is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use epilogue_journal::{Ended, ProcessId, Tier};

use crate::action::Call;
use crate::builtin::RecoverRun;
use crate::child::say;
use crate::environment;
use crate::guard::Guardian;
use crate::home::Home;
use crate::identity;
use crate::pay::{Options, Report, Runner, WHOLE_RUN};
use crate::recover::{self, Recovered};
use crate::run::{NewRun, OnWrapperDeath, Run, RunError, Settings, now_ms};
use crate::scope::{OUTER_ENV, SCOPE_ENV, ScopeRef};
use crate::{leftovers, log, os};

/// A command that is to be run as the owner of a scope.
pub struct Wrap {
    /// The command and its arguments; not empty.
    pub argv: Vec<String>,
    /// Where its journal goes.
    pub home: Home,
    /// What it is called in lists; the command's name unless given.
    pub name: Option<String>,
    /// How far its promises reach.
    pub tier: Tier,
    /// What the whole stop may take, once somebody has asked for it.
    pub budget: Duration,
    /// How long the command has to end then, if it is not to be reckoned from the budget.
    pub grace: Option<Duration>,
    /// How long the cleanups have together, if it is not to be reckoned.
    pub pay: Option<Duration>,
    /// Whether signals that another process sends to the wrapper go to the command as well.
    pub forward: bool,
    /// A session of its own for the command: nothing from the terminal reaches it.
    pub isolate: bool,
    /// What becomes of what the command leaves running.
    pub leftovers: Leftovers,
    /// What the guardian does when only the wrapper dies.
    pub on_wrapper_death: OnWrapperDeath,
    /// Do not run it without a guardian.
    pub require_guardian: bool,
    /// Say nothing about cleanups that succeeded.
    pub quiet: bool,
}

/// What becomes of what a command leaves running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// It is named, and left alone.
    Keep,
    /// It is ended before anything is paid.
    Term,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Wrapped {
    /// How the command ended.
    pub ended: Ended,
    /// The wrapper had to kill it.
    pub killed: bool,
    /// What was paid.
    pub report: Report,
    /// The run, as it is called in lists.
    pub run: String,
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// Its run could not be made.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no guardian, and one was required.
    #[error("no guardian: {0}")]
    NoGuardian(String),
    /// The command cannot be started.
    #[error("{name}: {source}")]
    Command {
        /// As it was given.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that the wrapper needs.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Wrapped {
    /// Ends this process as the command has: with its code, or by its signal.
    pub fn leave(&self) -> u8 {
        match self.ended {
            _ if self.killed => 124,
            Ended::Exited(0) if self.report.left() > 0 => 123,
            Ended::Exited(code) => code,
            Ended::Signalled(signal) => {
                let number = i32::from(signal);
                // A shell ends its loop only for who died of the signal.
                let polite = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE];
                if polite.contains(&number) && std::process::id() != 1 {
                    os::die_of(number);
                }
                128_u8.saturating_add(signal)
            }
            _ => 125,
        }
    }
}

const STOPS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
const OTHERS: [i32; 4] = [libc::SIGUSR1, libc::SIGUSR2, libc::SIGCONT, libc::SIGCHLD];
/// One key press can be two signals.
const DEBOUNCE: Duration = Duration::from_millis(500);

impl Wrap {
    /// Runs the command, waits for its end, and pays.
    ///
    /// # Errors
    ///
    /// [`WrapError`]: then the command was not run.
    pub fn run(self) -> Result<Wrapped, WrapError> {
        let io = |doing| move |source| WrapError::Io { doing, source };
        let before = os::current_mask();
        // What was ignored when this began (nohup, a job in the background of a script) stays ignored, here
        // as in the command, which has inherited it.
        let heard = |signal: &i32| *signal == libc::SIGCHLD || !os::is_ignored(*signal);
        let watched: Vec<i32> = STOPS.into_iter().chain(OTHERS).filter(heard).collect();
        // First of all: a signal that comes now is for the command, or ends this before it has begun.
        let signals = os::signals(&watched).map_err(io("listening for signals"))?;
        os::become_subreaper();
        // Ignored, as some daemons leave it, the kernel would collect children without a word.
        os::default_action(libc::SIGCHLD);
        let run = self.make_run()?;
        let guardian = self.guard(&run).inspect_err(|_| drop(run.remove()))?;
        let outer = enter_outer(&run);
        let pid = match self.spawn(&run, before) {
            Ok(pid) => pid,
            Err(source) => {
                outer.leave();
                dismiss(guardian.as_ref());
                let _ = run.remove();
                return Err(WrapError::Command { name: self.argv[0].clone(), source });
            }
        };
        let mut owner = Owner::new(pid, &run).map_err(io("watching the command"))?;
        let name = self.display_name();
        let (status, killed) = self.wait(&mut owner, &signals, &run);
        let ended = os::ended_by(status);
        let _ = run.journal.set_ended(ended);
        // Ended before anything is paid; or named after that, which may have ended some of it.
        let ends_them = self.leftovers == Leftovers::Term || std::process::id() == 1;
        if ends_them {
            leftovers::end();
        }
        let short = run.short().to_owned();
        let report = self.pay(run, &signals, owner.stop_at);
        if !ends_them {
            leftovers::name();
        }
        let report = report.unwrap_or_else(|| {
            say(&format!("epilogue: another payer has the cleanups of {name}"));
            Report::default()
        });
        dismiss(guardian.as_ref());
        if report.left() == 0 {
            outer.leave();
        }
        let how = if killed {
            "did not end within its grace, and was killed by this wrapper".to_owned()
        } else {
            log::ended_words(ended)
        };
        if killed && report.total() == 0 {
            say(&format!("epilogue: {name} {how}"));
        }
        tell(&name, &how, &short, &report, self.quiet);
        Ok(Wrapped { ended, killed, report, run: short })
    }

    fn display_name(&self) -> String {
        let name = self.argv[0].rsplit('/').next().unwrap_or(&self.argv[0]);
        self.name.clone().unwrap_or_else(|| name.to_owned())
    }

    fn make_run(&self) -> Result<Run, WrapError> {
        let settings = Settings {
            on_wrapper_death: self.on_wrapper_death,
            environment: Some(environment::current_hash()),
        };
        let run = Run::create(
            &self.home,
            NewRun {
                name: self.display_name(),
                program: None,
                command: self.argv.clone(),
                tier: self.tier,
                settings: Some(settings),
            },
        )?;
        if let Some(warning) = &run.warning {
            say(&format!("epilogue: {warning}"));
        }
        run.journal.set_wrapper(identity::this_process()).map_err(RunError::from)?;
        Ok(run)
    }

    fn guard(&self, run: &Run) -> Result<Option<Guardian>, WrapError> {
        let guardian = Guardian::start(&run.dir);
        let armed = match &guardian {
            Ok(guardian) if !self.require_guardian || guardian.wait_armed(Duration::from_secs(5)) => Ok(()),
            Ok(_) => Err("it did not say that it watches".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match armed {
            Ok(()) => Ok(guardian.ok()),
            Err(why) if self.require_guardian => Err(WrapError::NoGuardian(why)),
            Err(why) => {
                say(&format!(
                    "epilogue: no guardian ({why}): if this wrapper is killed, 'epilogue recover' pays"
                ));
                Ok(None)
            }
        }
    }

    fn spawn(&self, run: &Run, mask: libc::sigset_t) -> io::Result<u32> {
        let mut command = self.command()?;
        let scope = ScopeRef { dir: run.dir.clone(), scope: WHOLE_RUN }.to_string();
        let outer: Vec<String> = ScopeRef::from_environment().iter().map(ToString::to_string).collect();
        command.env(SCOPE_ENV, scope);
        if outer.is_empty() {
            command.env_remove(OUTER_ENV);
        } else {
            command.env(OUTER_ENV, outer.join(";"));
        }
        let isolate = self.isolate;
        let journal = Arc::clone(&run.journal);
        let alive = run.alive_lock().map(std::fs::File::try_clone).transpose()?;
        let wrapper = std::process::id();
        let name_owner = move || {
            os::set_mask(&mask)?;
            if isolate {
                os::leave_session();
            }
            // By the child itself: were it the parent's to do, a parent killed in between would leave a
            // command that nobody knows to wait for. A few stores.
            let me = ProcessId { pid: std::process::id(), start: 0 };
            journal.set_owner(me).map_err(|_| io::Error::from(io::ErrorKind::Other))?;
            // For who looks from another PID namespace, where the pid says nothing.
            if alive.as_ref().is_some_and(|alive| os::keep_over_exec(alive.as_fd())) {
                journal.set_owner_holds_lock(true).map_err(|_| io::Error::from(io::ErrorKind::Other))?;
            }
            // The wrapper was killed before anybody could wait for the command: it does not begin.
            if os::parent() == wrapper { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
        };
        // SAFETY: only stores to a mapping, or writes to a descriptor, and system calls. An error that is
        // made of a kind holds no memory.
        unsafe { command.pre_exec(name_owner) };
        Ok(command.spawn()?.id())
    }

    /// The command itself; where a supervisor has passed sockets to this very pid, by way of a step that
    /// tells the command's.
    fn command(&self) -> io::Result<Command> {
        let passed = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
        if passed {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(EXEC).arg("--").args(&self.argv);
            return Ok(command);
        }
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]);
        Ok(command)
    }

    /// Until the command is gone. Returns its wait status, and whether it had to be killed.
    fn wait(&self, owner: &mut Owner, signals: &OwnedFd, run: &Run) -> (i32, bool) {
        let terminal = os::has_terminal();
        let mut killed = false;
        loop {
            let kill_at = owner.stop_at.filter(|_| !terminal).map(|at| at + self.time_to_end(run));
            let left = kill_at.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) && !killed {
                owner.signal(libc::SIGKILL);
                killed = true;
            }
            let _ = os::wait_readable(&[signals.as_fd()], left.filter(|_| !killed));
            for taken in os::take_signals(signals) {
                self.pass_on(taken, owner);
            }
            while let Some((pid, status)) = os::reap() {
                if pid == owner.pid {
                    return (status, killed);
                }
            }
        }
    }

    fn pass_on(&self, taken: os::Taken, owner: &mut Owner) {
        if STOPS.contains(&taken.signal) && owner.stop_at.is_none() {
            owner.stop_at = Some(Instant::now());
        }
        // What the terminal sends has reached the command already, unless it is in another session.
        let wanted = (taken.sent && self.forward) || self.isolate;
        if taken.signal != libc::SIGCHLD && wanted {
            owner.signal(taken.signal);
        }
    }

    /// How long the command has once it was told to end: some of the budget is for what is owed.
    fn time_to_end(&self, run: &Run) -> Duration {
        let owed = run.journal.scan().is_ok_and(|scan| scan.open().next().is_some());
        self.grace.unwrap_or(if owed { self.budget - self.budget / 3 } else { self.budget })
    }

    fn pay(&self, run: Run, signals: &OwnedFd, stop_at: Option<Instant>) -> Option<Report> {
        let budget = self.pay.unwrap_or(match stop_at {
            Some(at) => self.budget.saturating_sub(at.elapsed()).max(Duration::from_secs(1)),
            None => Duration::from_secs(30),
        });
        let impatience = Arc::new(Impatience::default());
        let theirs = Arc::clone(&impatience);
        let also = Arc::clone(&impatience);
        let options = Options {
            budget,
            stop: Arc::new(move || theirs.given_up.load(Ordering::Acquire)),
            beginning: Arc::new(move |what| also.now_running(what)),
            ..Options::of(Runner::Wrapper)
        };
        std::thread::scope(|s| {
            let over = io::pipe().ok().map(|(reader, writer)| {
                s.spawn(|| impatience.listen(signals, reader));
                writer
            });
            let paid = recover::pay_dead(run, &options, Duration::from_secs(1));
            drop(over);
            match paid {
                Ok(Recovered::Paid(report)) => Some(report),
                Ok(_) => None,
                Err(error) => {
                    say(&format!("epilogue: {error}; what is owed stays on record: 'epilogue recover'"));
                    Some(Report { failed: vec![unknown_debt()], ..Report::default() })
                }
            }
        })
    }
}

/// The argument by which this program becomes another, with `LISTEN_PID` set right.
pub(crate) const EXEC: &str = "__exec";

fn unknown_debt() -> crate::pay::Item {
    crate::pay::Item { id: 0, what: "what is on record".into(), why: Some("it cannot be read".into()) }
}

fn dismiss(guardian: Option<&Guardian>) {
    if let Some(guardian) = guardian {
        guardian.dismiss();
    }
}

/// The command, while it runs.
struct Owner {
    pid: u32,
    pidfd: Option<OwnedFd>,
    /// When somebody first asked for a stop.
    stop_at: Option<Instant>,
}

impl Owner {
    fn new(pid: u32, run: &Run) -> io::Result<Owner> {
        let start = identity::start_of(pid).unwrap_or(0);
        // Without a start only if it is gone already.
        let _ = run.journal.set_owner(ProcessId { pid, start });
        Ok(Owner { pid, pidfd: os::pidfd(pid).ok(), stop_at: None })
    }

    fn signal(&self, signal: i32) {
        match &self.pidfd {
            Some(pidfd) => drop(os::signal_by_pidfd(pidfd, signal)),
            // A kernel without pidfds, or one that refuses them.
            None => os::signal_pid(self.pid, signal),
        }
    }
}

/// The record of this run in the scope around it.
struct Outer(Option<(Run, u64)>);

fn enter_outer(run: &Run) -> Outer {
    let enter = || -> Option<(Run, u64)> {
        let outer = ScopeRef::from_environment().into_iter().next()?;
        let around = Run::open(&outer.dir).ok()?;
        let call = Call::of(&RecoverRun { dir: run.dir.clone() }).ok()?;
        let body = call.to_bytes().ok()?;
        let record = epilogue_journal::Record {
            scope: outer.scope,
            time_ms: now_ms(),
            body: &body,
            tier: around.meta().tier,
        };
        let id = around.journal.register(&record).ok()?.id();
        Some((around, id))
    };
    Outer(enter())
}

impl Outer {
    fn leave(&self) {
        if let Some((around, id)) = &self.0 {
            let _ = around.journal.disarm_id(*id);
        }
    }
}

/// Somebody who does not want to wait for the cleanups.
#[derive(Default)]
struct Impatience {
    given_up: AtomicBool,
    asked: AtomicU32,
    running: Mutex<String>,
}

impl Impatience {
    fn now_running(&self, what: &str) {
        what.clone_into(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The first Ctrl-C is told what is running, the second leaves the rest to the guardian.
    fn listen(&self, signals: &OwnedFd, over: io::PipeReader) {
        let mut last: Option<Instant> = None;
        while let Ok(ready) = os::wait_readable(&[signals.as_fd(), over.as_fd()], None)
            && !ready[1]
        {
            for taken in os::take_signals(signals) {
                let stop = STOPS.contains(&taken.signal);
                if !stop || last.is_some_and(|at| at.elapsed() < DEBOUNCE) {
                    continue;
                }
                last = Some(Instant::now());
                let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if self.asked.fetch_add(1, Ordering::AcqRel) == 0 {
                    say(&format!(
                        "epilogue: running a cleanup: {running} (again: leave the rest to the guardian)"
                    ));
                } else if taken.signal == libc::SIGINT || taken.signal == libc::SIGQUIT {
                    say("epilogue: the rest is left to the guardian; 'epilogue pending list' shows it");
                    self.given_up.store(true, Ordering::Release);
                    os::die_of(taken.signal);
                }
            }
        }
    }
}

fn tell(name: &str, how: &str, run: &str, report: &Report, quiet: bool) {
    let (ran, total) = (report.ran.len(), report.total());
    if total == 0 || (quiet && report.left() == 0) {
        return;
    }
    let noun = if total == 1 { "cleanup" } else { "cleanups" };
    say(&format!("epilogue: {name} {how}; ran {ran} of {total} {noun} in {} ms", report.took_ms));
    for item in report.failed.iter().chain(&report.parked) {
        let kept = if report.parked.contains(item) { "parked" } else { "still owed" };
        say(&format!(
            "epilogue:   {kept}: {run}/{} {}: {}",
            item.id,
            item.what,
            item.why.as_deref().unwrap_or("no reason is known")
        ));
    }
    if report.left() > 0 {
        say("epilogue:   'epilogue pending list' shows it; 'epilogue pending retry' tries it again");
    }
}

/// Becomes another program, with the pid that sockets were passed to set to this one.
///
/// # Errors
///
/// When it cannot be started; on success it does not return.
pub fn exec_with_listen_pid(argv: &[String]) -> io::Error {
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env("LISTEN_PID", std::process::id().to_string());
    command.exec()
}
