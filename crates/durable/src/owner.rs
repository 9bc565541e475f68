//! This process as the owner of a run: made at the first registration, with its guardian.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use epilogue_guardian::{Guardian, Home, NewRun, Options, Recovered, Run, RunError, Runner, recover_all};
use epilogue_journal::Tier;

use crate::handle::DurableError;
use crate::unpaid::Unpaid;

/// The run of this process.
pub(crate) struct Owner {
    pub(crate) run: Run,
    guardian: Option<Guardian>,
    pub(crate) unpaid: Unpaid,
    /// A forked child is another process, and owes nothing of this.
    pub(crate) pid: u32,
}

static OWNER: Mutex<Option<Arc<Owner>>> = Mutex::new(None);
/// The pid, kept current over forks: asking the system costs more than a registration.
static PID: AtomicU32 = AtomicU32::new(0);

/// The run of this process, which is made if it is not there.
pub(crate) fn owner(tier: Tier) -> Result<Arc<Owner>, DurableError> {
    let mut owner = OWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(owner) = owner.as_ref().filter(|owner| owner.pid == current_pid()) {
        if tier == Tier::Power && owner.run.meta().tier != Tier::Power {
            return Err(DurableError::NotHere(
                "this process keeps its journal where a power cut reaches it".into(),
            ));
        }
        return Ok(Arc::clone(owner));
    }
    let made = Arc::new(make()?);
    *owner = Some(Arc::clone(&made));
    drop(owner);
    // Told without the lock: a sink may register something itself.
    if let Some(warning) = &made.run.warning {
        epilogue_scope::report::noticed("durable cleanups", warning);
    }
    Ok(made)
}

fn make() -> Result<Owner, DurableError> {
    follow_forks();
    // With a place that survives a power cut both promises can be given; the weaker costs no more there,
    // until the other is first given.
    let power = Home::find(None, Tier::Power);
    let tier = if power.is_ok() { Tier::Power } else { Tier::Process };
    let home = power.or_else(|_| Home::find(None, Tier::Process))?;
    let program = std::env::current_exe().ok();
    let run = Run::create(&home, NewRun { name: name(), program, tier, ..NewRun::default() })?;
    let guardian = Guardian::start(&run.dir)
        .inspect_err(|error| {
            // The next start pays, or 'epilogue recover'.
            epilogue_scope::report::failed_to("the start of the guardian of durable cleanups", error);
        })
        .ok();
    Ok(Owner { run, guardian, unpaid: Unpaid::default(), pid: current_pid() })
}

fn name() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("?"));
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether the guardian of this process has said that it watches. `false` before the first registration.
pub fn is_guarded() -> bool {
    let owner = OWNER.lock().unwrap_or_else(PoisonError::into_inner);
    owner.as_ref().is_some_and(|owner| owner.guardian.as_ref().is_some_and(Guardian::is_armed))
}

/// Pays what earlier runs of this program left: after a power cut, or where the guardian was killed with
/// its owner. For the beginning of `main`, before anything is acquired. Blocks: what is owed has 90 s for
/// each run, and a guardian that is at it is waited for, for up to `patience` in all.
///
/// # Errors
///
/// When there is no place for a journal, or it cannot be read.
pub fn recover(patience: Duration) -> Result<Vec<Recovered>, DurableError> {
    let program = std::env::current_exe().ok();
    let options = Options::of(Runner::Recover);
    let mut all = Vec::new();
    let until = Instant::now() + patience;
    for home in Home::look(None)? {
        let left = until.saturating_duration_since(Instant::now());
        let own = |run: &Run| run.meta().program == program;
        let recovered = recover_all(&home, &options, left, own).map_err(|source| RunError::Io {
            path: home,
            doing: "reading it",
            source,
        })?;
        for (_, one) in recovered {
            match one {
                Ok(Recovered::Alive) => {}
                Ok(one) => all.push(one),
                Err(error) => epilogue_scope::report::failed_to("paying what an earlier run left", &error),
            }
        }
    }
    Ok(all)
}

/// The pid of this process, also in a forked child.
pub(crate) fn current_pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => std::process::id(),
        pid => pid,
    }
}

fn follow_forks() {
    extern "C" fn in_child() {
        PID.store(std::process::id(), Ordering::Relaxed);
    }
    if PID.swap(std::process::id(), Ordering::Relaxed) == 0 {
        // SAFETY: the handler only reads the pid and stores it, which is allowed in a forked child.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}
