//! Who a process is: a pid says it only together with a start time, a boot and a namespace.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use epilogue_journal::{Meta, ProcessId};

use crate::os;
use crate::proc::{self, Shown, Start};

pub(crate) use crate::proc::same_start;

/// Whether a process is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// It is.
    Yes,
    /// It is not, and will not be.
    No,
    /// From here nobody can tell: it lives, or lived, in another PID namespace, or `/proc` does not show this
    /// one.
    Elsewhere,
}

/// This process.
pub fn this_process() -> ProcessId {
    static ME: Mutex<ProcessId> = Mutex::new(ProcessId { pid: 0, start: 0 });
    let pid = std::process::id();
    let mut me = ME.lock().unwrap_or_else(PoisonError::into_inner);
    // A forked child is another.
    if me.pid != pid {
        *me = ProcessId { pid, start: start_of(pid).unwrap_or(0) };
    }
    *me
}

/// When a process started, in clock ticks since boot, whatever the time namespace of who asks. `None`:
/// there is none, or only its remains. `Some(0)`: it is there, and that cannot be told here, because `/proc`
/// does not show it, or tells the time of another namespace.
pub fn start_of(pid: u32) -> Option<u64> {
    // The kernel says whether it is there: `/proc` hides some from some, and is read in more than one look.
    let there = os::is_there(pid).unwrap_or_else(|| !is_remains(pid));
    there.then(|| proc::find(pid).and_then(start_of_shown).unwrap_or(0))
}

/// The start of one that is shown.
fn start_of_shown(shown: Shown) -> Option<u64> {
    match shown.stat()?.start()? {
        // Only the first threads of the kernel start at 0, and they own nothing.
        Start::At(ticks) => Some(ticks.max(1)),
        Start::Untold => None,
    }
}

/// Whether only remains of a process are left, where no descriptor of it can be had to ask.
fn is_remains(pid: u32) -> bool {
    let Some(shown) = proc::find(pid) else { return false };
    let remains = || shown.stat().is_some_and(|stat| stat.is_remains());
    // Its first thread may have ended, and another be about to become the first, by an exec: looked at again.
    remains() && shown.threads() <= 1 && remains()
}

/// The wait status of a process that has ended and was not collected yet: what the system shows of it to
/// its own user.
pub(crate) fn status_of_remains(process: ProcessId) -> Option<i32> {
    let stat = proc::find(process.pid)?.stat()?;
    let its = match stat.start()? {
        Start::At(start) => process.start == 0 || same_start(start, process.start),
        Start::Untold => false,
    };
    if stat.is_remains() && its { stat.status() } else { None }
}

/// The parent of a process, if it is of this PID namespace.
pub fn parent_of(pid: u32) -> Option<u32> {
    proc::pid_of(proc::find(pid)?.stat()?.parent()?)
}

/// What stands for a boot that nobody can tell.
const UNTOLD: &str = "?";

/// This boot of the machine; "?" where it cannot be told.
pub fn boot_id() -> String {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned());
    ID.get_or_init(|| read().unwrap_or_else(|_| UNTOLD.into())).clone()
}

/// The PID namespace of this process; 0 where it cannot be told.
pub fn pid_namespace() -> u64 {
    proc::own_namespace()
}

/// Whether a process that a journal names is there.
pub fn alive(meta: &Meta, process: ProcessId) -> Alive {
    if process.pid == 0 {
        return Alive::No;
    }
    if meta.boot_id != boot_id() {
        // Without a boot to compare there is no `/proc` either.
        let told = meta.boot_id != UNTOLD && boot_id() != UNTOLD;
        return if told { Alive::No } else { Alive::Elsewhere };
    }
    if meta.pid_namespace != pid_namespace() {
        let seen = process.start != 0 && is_seen_in(meta.pid_namespace, process);
        return if seen { Alive::Yes } else { Alive::Elsewhere };
    }
    alive_here(process)
}

/// The same for a process of this PID namespace and this boot.
pub(crate) fn alive_here(process: ProcessId) -> Alive {
    match start_of(process.pid) {
        None => Alive::No,
        // Its start was not known when it was named: whoever has the pid may be it.
        Some(_) if process.start == 0 => Alive::Yes,
        // Or it is not known here.
        Some(0) => Alive::Elsewhere,
        Some(start) if same_start(start, process.start) => Alive::Yes,
        Some(_) => Alive::No,
    }
}

/// Whether a process of another PID namespace is seen from here: the one above sees those below, under
/// other pids. Not to be seen is no proof.
fn is_seen_in(namespace: u64, process: ProcessId) -> bool {
    let lives = |shown: &Shown| shown.stat().is_some_and(|stat| !stat.is_remains());
    proc::of_namespace(namespace, process.pid)
        .filter(lives)
        .filter_map(start_of_shown)
        .any(|start| same_start(start, process.start))
}

/// A descriptor that is readable once the process is gone; `None` when it is already.
///
/// # Errors
///
/// What the system says where it has no such descriptors; [`io::ErrorKind::Unsupported`] for a process that
/// cannot be known from here.
pub(crate) fn watch(meta: &Meta, process: ProcessId) -> io::Result<Option<OwnedFd>> {
    match alive(meta, process) {
        Alive::No => return Ok(None),
        // A pid of another namespace is a stranger's here: seen to live, and not to be opened by that number.
        Alive::Yes if meta.pid_namespace == pid_namespace() => {}
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    match os::pidfd(process.pid) {
        // Between the look and the opening another may have come by the same pid.
        Ok(pidfd) => match alive(meta, process) {
            Alive::Yes => Ok(Some(pidfd)),
            Alive::No => Ok(None),
            Alive::Elsewhere => Err(io::ErrorKind::Unsupported.into()),
        },
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn this_process_is_alive_and_one_with_its_pid_and_another_start_is_not() {
        let meta = crate::run::tests_meta();
        let me = this_process();
        assert!(me.start > 0);
        assert_eq!(alive(&meta, me), Alive::Yes);
        assert_eq!(alive(&meta, ProcessId { start: me.start + 2, ..me }), Alive::No);
        assert_eq!(alive(&meta, ProcessId { start: 0, ..me }), Alive::Yes);
        assert_eq!(alive(&meta, ProcessId::default()), Alive::No);
        assert!(start_of(1).is_some() && parent_of(me.pid).is_some());
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let meta = crate::run::tests_meta();
        let process = ProcessId { pid, start: start_of(pid).unwrap_or(0) };
        if let Some(pidfd) = watch(&meta, process).unwrap() {
            use std::os::fd::AsFd;
            os::wait_readable(&[pidfd.as_fd()], None).unwrap();
        }
        assert_eq!(alive(&meta, process), Alive::No, "not waited for yet");
        child.wait().unwrap();
    }

    #[test]
    fn a_process_of_a_namespace_below_is_seen_and_never_taken_for_the_stranger_with_its_number() {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "sleep", "600"]);
        let mut above = unshare.spawn().unwrap();
        let child = || {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", above.id())).ok()?;
            children.split_whitespace().next()?.parse::<u32>().ok()
        };
        // Until it is there, and has become `sleep`; or not, where nobody may do that.
        let below = loop {
            let pid = child().filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
            });
            if pid.is_some() || start_of(above.id()).is_none() {
                break pid;
            }
            std::thread::yield_now();
        };
        if let Some(pid) = below {
            let mut meta = crate::run::tests_meta();
            meta.pid_namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).unwrap().ino();
            let inside = ProcessId { pid: 1, start: start_of(pid).unwrap() };
            assert_eq!(alive(&meta, inside), Alive::Yes);
            assert!(watch(&meta, inside).is_err(), "pid 1 is somebody else here");
        } else {
            eprintln!("skipped(no PID namespace can be made here)");
        }
        above.kill().unwrap();
        above.wait().unwrap();
    }
}
