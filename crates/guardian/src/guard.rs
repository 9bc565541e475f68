//! The guardian: this very program, started again, which watches its owner and pays when that is dead.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use epilogue_journal::{Ended, Phase, ProcessId, Record, Tier};

use crate::action::Call;
use crate::builtin::{KEY_ENV, RemoveFile};
use crate::child::say;
use crate::home::Home;
use crate::identity::{self, Alive};
use crate::pay::{Options, Runner};
use crate::recover::{self, Recovered};
use crate::run::{NewRun, OnWrapperDeath, Run, unique};
use crate::{order, os};

/// The variable that makes a program a guardian.
pub(crate) const GUARDIAN_ENV: &str = "EPILOGUE_GUARDIAN";

/// How long an owner that was told to end has to do so.
const AFTER_TERM: Duration = Duration::from_secs(10);

/// The guardian of a run, as its owner sees it. It is started again if it dies.
pub struct Guardian {
    state: Arc<State>,
}

struct State {
    dir: PathBuf,
    armed: AtomicBool,
    /// It shall not be started again.
    over: AtomicBool,
    pid: Mutex<Option<u32>>,
}

/// How often a guardian that dies at once is started again: some limit is better than a storm.
const STARTS_MAX: u32 = 20;
/// One that has lived so long did not die at once.
const LONG_LIFE: Duration = Duration::from_secs(60);

impl Guardian {
    /// Starts the guardian of a run. When this returns it exists, and whatever happens to this process
    /// from then on is seen by it.
    ///
    /// # Errors
    ///
    /// When no process can be started. The run is then paid by the next start of its program, or by
    /// `epilogue recover`.
    ///
    /// # Cost
    ///
    /// About 70 microseconds, whatever the size of this process: it is not copied. One thread waits for
    /// the guardian.
    pub fn start(dir: &Path) -> std::io::Result<Guardian> {
        let state = Arc::new(State {
            dir: dir.to_owned(),
            armed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            pid: Mutex::new(None),
        });
        let child = spawn(dir)?;
        state.set_pid(Some(child.id()));
        let theirs = Arc::clone(&state);
        std::thread::Builder::new().name("epilogue-guardian".into()).spawn(move || theirs.keep(child))?;
        Ok(Guardian { state })
    }

    /// Whether it has said that it watches.
    pub fn is_armed(&self) -> bool {
        self.state.armed.load(Ordering::Acquire)
    }

    /// Waits until it has said that it watches. Returns whether it did.
    pub fn wait_armed(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while !self.is_armed() && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.is_armed()
    }

    /// Its pid, while it lives.
    pub fn pid(&self) -> Option<u32> {
        *self.state.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is not needed any more: it ends by itself, and is not started again.
    pub fn dismiss(&self) {
        self.state.over.store(true, Ordering::Release);
    }
}

impl State {
    fn set_pid(&self, pid: Option<u32>) {
        *self.pid.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    /// Waits for the guardian's end, and starts another.
    fn keep(&self, mut child: Child) {
        let mut in_a_row = 0;
        loop {
            let began = Instant::now();
            if let Some(stdout) = child.stdout.take() {
                let mut line = String::new();
                if BufReader::new(stdout).read_line(&mut line).is_ok() && line == "armed\n" {
                    self.armed.store(true, Ordering::Release);
                }
            }
            let _ = child.wait();
            self.armed.store(false, Ordering::Release);
            self.set_pid(None);
            in_a_row = if began.elapsed() < LONG_LIFE { in_a_row + 1 } else { 0 };
            if self.over.load(Ordering::Acquire) || !self.dir.join("journal").exists() {
                return;
            }
            let next = match in_a_row {
                0..=STARTS_MAX => spawn(&self.dir).map_err(|error| error.to_string()),
                _ => Err(format!("it was started {STARTS_MAX} times, and died each time")),
            };
            match next {
                Ok(next) => child = next,
                Err(why) => return self.give_up(&why),
            }
            self.set_pid(Some(child.id()));
        }
    }

    fn give_up(&self, why: &str) {
        say(&format!(
            "epilogue: no guardian any more ({why}): if this process is killed, 'epilogue recover' pays {}",
            self.dir.display()
        ));
    }
}

fn spawn(dir: &Path) -> std::io::Result<Child> {
    // No code of ours runs between fork and exec, so this process is not copied. The link leads to what
    // is running, also when another file has been put in its place.
    Command::new("/proc/self/exe")
        // For who looks at a list of processes.
        .arg0("epilogue-guardian")
        .env(GUARDIAN_ENV, dir)
        // Begun within a cleanup, it is not of that attempt, and does not end with it.
        .env_remove(KEY_ENV)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Before `main`: if this process was started as a guardian, or to run one action, it is that and
/// nothing else.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let role = [GUARDIAN_ENV, order::ACTION_ENV].map(std::env::var_os);
    if role.iter().all(Option::is_none) {
        return;
    }
    for name in [GUARDIAN_ENV, order::ACTION_ENV] {
        // SAFETY: before `main` there is one thread. What is started from here must not take itself for
        // another guardian.
        unsafe { std::env::remove_var(name) };
    }
    // What a panic would unwind into is not Rust.
    let code = std::panic::catch_unwind(|| match role {
        [Some(dir), _] => main(dir),
        [_, Some(order)] => order::main(order),
        _ => 0,
    });
    // Not through exit handlers: they belong to a program that has not begun.
    os::exit_now(code.unwrap_or(101));
}

fn main(dir: OsString) -> u8 {
    os::close_inherited();
    os::default_signals();
    let ignored = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];
    let Ok(signals) = os::signals(&ignored) else { return 1 };
    // Deaf first: whoever sees it in a session of its own sees one that no hangup ends.
    os::leave_session();
    os::raise_limits();
    let _ = std::env::set_current_dir("/");
    let Ok(mut run) = Run::open(Path::new(&dir)) else { return 1 };
    stay_known(&mut run);
    // Before anybody may rely on it: how the owner ends is told to who has seen it alive.
    let owner = run.journal.owner().ok().and_then(|owner| identity::watch(run.meta(), owner).ok().flatten());
    let _ = std::io::stdout().write_all(b"armed\n").and_then(|()| std::io::stdout().flush());
    os::let_go_of_stdout();
    rehearse();
    watch(run, &signals, owner)
}

/// Says to other PID namespaces that somebody lives who knows; but not where this guardian is itself in
/// another than its owner, and has to see that lock free.
fn stay_known(run: &mut Run) {
    if run.meta().pid_namespace == identity::pid_namespace() {
        run.stay_known();
    }
}

/// Pays a debt of its own making, once, in memory: the code that will be needed is then there, and half
/// of the time to the first cleanup does not go into reading it. What fails is no reason not to watch.
fn rehearse() {
    let path = Path::new("/dev/shm").join(format!("epilogue-rehearsal-{}", unique()));
    let rehearse = || -> Result<(), Box<dyn std::error::Error>> {
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let home = Home { path: path.clone(), from: "rehearsal", volatile: true, passed_over: Vec::new() };
        let trial = Run::create(&home, NewRun::default())?;
        let call = Call::of(&RemoveFile::new(path.join("nothing"))?)?.to_bytes()?;
        trial.journal.register(&Record { scope: 1, time_ms: 0, body: &call, tier: Tier::Process })?;
        let trial = Run::open(&trial.dir)?;
        recover::pay_dead(trial, &Options::of(Runner::Guardian), Duration::ZERO)?;
        Ok(())
    };
    let _ = rehearse();
    let _ = std::fs::remove_dir_all(path);
}

/// How often a guardian looks by itself. Of a death under a tracer that is stopped nobody wakes it, and the
/// owner is gone all the same.
const LOOK: Duration = Duration::from_secs(10);

/// Until the owner is gone, and the wrapper that would pay after it.
fn watch(mut run: Run, signals: &OwnedFd, mut last_seen: Option<OwnedFd>) -> u8 {
    loop {
        let (Ok(owner), Ok(wrapper)) = (run.journal.owner(), run.journal.wrapper()) else { return 1 };
        let watched = (identity::watch(run.meta(), owner), identity::watch(run.meta(), wrapper));
        let (owner_fd, wrapper_fd) = match watched {
            (Ok(None), Ok(None)) => {
                note_end(&run, owner, last_seen.as_ref());
                match pay(run) {
                    After::Over(code) => return code,
                    After::Alive(living) => run = living,
                }
                continue;
            }
            (Ok(owner), Ok(wrapper)) => (owner, wrapper),
            _ => match by_looking(&run, signals).map_or_else(|| pay(run), After::Over) {
                After::Over(code) => return code,
                After::Alive(living) => {
                    run = living;
                    continue;
                }
            },
        };
        if let (Some(owner_fd), None) = (&owner_fd, &wrapper_fd)
            && wrapper.pid != 0
            && run.settings.on_wrapper_death == OnWrapperDeath::Term
            // If it may not be told, it is another user's by now: its end is waited for.
            && end(owner_fd)
        {
            continue;
        }
        if is_over(&run) {
            return 0;
        }
        let fds: Vec<_> =
            [Some(signals), owner_fd.as_ref(), wrapper_fd.as_ref()].into_iter().flatten().collect();
        let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        let Ok(ready) = os::wait_readable(&borrowed, Some(LOOK)) else { return 1 };
        // The owner may be another by now: a wrapper names itself until its command has done so. Who is
        // gone is decided above, by what the journal says at that moment.
        let same = run.journal.owner().is_ok_and(|now| now == owner);
        last_seen = owner_fd.filter(|_| same && owner != wrapper);
        if ready[1] && last_seen.is_some() {
            note_end(&run, owner, last_seen.as_ref());
        }
        // A unit that is stopped waits for everyone in it: without a debt there is nothing to stay for.
        let told = os::take_signals(signals).iter().any(|taken| taken.signal == libc::SIGTERM);
        if told && !owes(&run) {
            return 0;
        }
    }
}

/// The same on a kernel that has no pidfds, or refuses them, and for an owner of another PID namespace:
/// looked at now and then. `None`: it is time to pay.
fn by_looking(run: &Run, signals: &OwnedFd) -> Option<u8> {
    let mut told: Option<Instant> = None;
    // Of another namespace its pid is a stranger's here.
    let may_signal = run.meta().pid_namespace == identity::pid_namespace();
    loop {
        let (Ok(owner), Ok(wrapper)) = (run.journal.owner(), run.journal.wrapper()) else { return Some(1) };
        match (run.process_alive(owner), run.process_alive(wrapper)) {
            (Alive::No, Alive::No) => return None,
            // Then its lock tells.
            (Alive::Elsewhere, _) | (_, Alive::Elsewhere) if run.alive().is_ok_and(|a| a == Alive::No) => {
                return None;
            }
            (Alive::Yes, Alive::No)
                if wrapper.pid != 0
                    && may_signal
                    && run.settings.on_wrapper_death == OnWrapperDeath::Term =>
            {
                let since = told.get_or_insert_with(|| {
                    os::signal_pid(owner.pid, libc::SIGTERM);
                    Instant::now()
                });
                if since.elapsed() >= AFTER_TERM {
                    os::signal_pid(owner.pid, libc::SIGKILL);
                }
            }
            _ => {}
        }
        let left = os::take_signals(signals).iter().any(|taken| taken.signal == libc::SIGTERM) && !owes(run);
        if left || is_over(run) {
            return Some(0);
        }
        // Or until somebody tells it something.
        if os::wait_readable(&[signals.as_fd()], Some(Duration::from_millis(20))).is_err() {
            return Some(1);
        }
    }
}

/// How the owner ended, for cleanups that look at it: its parent may be nobody who tells.
fn note_end(run: &Run, owner: ProcessId, pidfd: Option<&OwnedFd>) {
    // Its parent may collect what is left of it between two of these.
    let status = || {
        let told = || pidfd.and_then(os::exit_status);
        told().or_else(|| identity::status_of_remains(owner)).or_else(told)
    };
    if run.journal.ended().is_ok_and(|ended| ended == Ended::Unknown)
        && let Some(status) = status()
    {
        let _ = run.journal.set_ended(os::ended_by(status));
    }
}

fn owes(run: &Run) -> bool {
    run.journal.scan().is_ok_and(|scan| scan.open().next().is_some())
}

/// Whether the owner has paid, and taken the run away.
fn is_over(run: &Run) -> bool {
    let gone = || !run.dir.join("journal").exists() && !owes(run);
    run.journal.phase().is_ok_and(|phase| phase == Phase::Closed) || gone()
}

/// Returns whether it could be told.
fn end(owner: &OwnedFd) -> bool {
    for (signal, patience) in [(libc::SIGTERM, AFTER_TERM), (libc::SIGKILL, AFTER_TERM)] {
        match os::signal_by_pidfd(owner, signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return true,
            Err(_) => return false,
            Ok(()) => {}
        }
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            if os::wait_readable(&[owner.as_fd()], Some(left)).is_ok_and(|ready| ready[0]) {
                return true;
            }
        }
    }
    true
}

/// What came of it.
enum After {
    /// This guardian is not needed any more.
    Over(u8),
    /// The owner lives: the journal has named another.
    Alive(Run),
}

fn pay(run: Run) -> After {
    let dir = run.dir.clone();
    let mut next = Some(run);
    // Whoever else has it may die of it.
    loop {
        let run = match next.take() {
            Some(run) => run,
            None => match Run::open(&dir) {
                Ok(run) => run,
                Err(_) => return After::Over(0),
            },
        };
        match recover::pay_dead(run, &Options::of(Runner::Guardian), Duration::ZERO) {
            Ok(Recovered::Busy) => std::thread::sleep(Duration::from_millis(100)),
            Ok(Recovered::Paid(report)) if report.left() == 0 => return After::Over(0),
            Ok(Recovered::Alive) => {
                let Ok(mut run) = Run::open(&dir) else { return After::Over(0) };
                stay_known(&mut run);
                return After::Alive(run);
            }
            _ => return After::Over(1),
        }
    }
}
