//! Who a process is: a pid says it only together with a start time, a boot and a namespace.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use epilogue_journal::{Meta, ProcessId};

use crate::os;

/// Whether a process is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// It is.
    Yes,
    /// It is not, and will not be.
    No,
    /// It lives, or lived, in another PID namespace: from here nobody can tell.
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
/// there is none, or only its remains.
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = Stat::of(pid)?;
    if stat.is_remains() && threads(pid) <= 1 {
        return None;
    }
    stat.start()
}

/// What the system says of a process in one line.
struct Stat(String);

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok().map(Stat)
    }

    /// A field, by its number in proc(5), from 3 on. The name before them may hold anything, so they are
    /// counted from its closing bracket.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.rsplit_once(')')?.1.split_whitespace().nth(number - 3)
    }

    fn is_remains(&self) -> bool {
        matches!(self.field(3), Some("Z" | "X"))
    }

    fn start(&self) -> Option<u64> {
        self.field(22)?.parse::<u64>().ok()?.checked_add_signed(-time_offset())
    }
}

/// How much later the clock since boot is here than on the machine, in clock ticks: a time namespace may
/// set it, and start times are told by it.
fn time_offset() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        let boot = offsets.lines().find_map(|line| line.strip_prefix("boottime"));
        let mut numbers = boot.unwrap_or_default().split_whitespace().map(str::parse::<i64>);
        let (Some(Ok(seconds)), Some(Ok(nanos))) = (numbers.next(), numbers.next()) else { return 0 };
        let ticks = i64::try_from(os::clock_ticks()).unwrap_or(100);
        seconds.saturating_mul(ticks).saturating_add(nanos.saturating_mul(ticks) / 1_000_000_000)
    })
}

/// Whether two start times are of one process. Where the clock is offset by parts of a tick, each is
/// rounded another way.
pub(crate) fn same_start(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= u64::from(time_offset() != 0)
}

/// The wait status of a process that has ended and was not collected yet: what the system shows of it to
/// its own user.
pub(crate) fn status_of_remains(process: ProcessId) -> Option<i32> {
    let stat = Stat::of(process.pid)?;
    let its = process.start == 0 || same_start(stat.start()?, process.start);
    if !stat.is_remains() || !its {
        return None;
    }
    stat.field(52)?.parse().ok()
}

/// A process whose first thread has ended shows as a zombie while others run on.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// The parent of a process.
pub fn parent_of(pid: u32) -> Option<u32> {
    Stat::of(pid)?.field(4)?.parse().ok()
}

/// Every process that is seen from here.
pub(crate) fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a process was started with a variable of this name in its environment, and, if one is given,
/// of this value. Not known of who hides it, or is another user's.
pub(crate) fn carries(pid: u32, variable: &str, value: Option<&str>) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| {
        let found = entry.strip_prefix(variable.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        found.is_some_and(|found| value.is_none_or(|value| found == value.as_bytes()))
    })
}

/// This boot of the machine.
pub fn boot_id() -> String {
    static ID: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned());
    ID.get_or_init(|| read().unwrap_or_else(|_| "?".into())).clone()
}

/// The PID namespace of this process.
pub fn pid_namespace() -> u64 {
    // Of the process it never changes; only its children's can.
    static SPACE: OnceLock<u64> = OnceLock::new();
    *SPACE.get_or_init(|| fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino()))
}

/// Whether a process that a journal names is there.
pub fn alive(meta: &Meta, process: ProcessId) -> Alive {
    if meta.boot_id != boot_id() || process.pid == 0 {
        return Alive::No;
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
        Some(start) if process.start == 0 || same_start(start, process.start) => Alive::Yes,
        Some(_) => Alive::No,
    }
}

/// Whether a process of another PID namespace is seen from here: the one above sees those below, under
/// other pids. Not to be seen is no proof.
fn is_seen_in(namespace: u64, process: ProcessId) -> bool {
    all_pids().any(|pid| {
        let inside = fs::metadata(format!("/proc/{pid}/ns/pid")).is_ok_and(|found| found.ino() == namespace);
        inside
            && innermost_pid(pid) == Some(process.pid)
            && start_of(pid).is_some_and(|start| same_start(start, process.start))
    })
}

/// The pid that a process has in its own namespace.
fn innermost_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_whitespace().last()?.parse().ok()
}

/// A descriptor that is readable once the process is gone; `None` when it is already.
///
/// # Errors
///
/// What the system says where it has no such descriptors.
pub(crate) fn watch(meta: &Meta, process: ProcessId) -> io::Result<Option<OwnedFd>> {
    // A pid of another namespace is a stranger's here: seen to live, and not to be opened by that number.
    if meta.pid_namespace != pid_namespace() || alive(meta, process) != Alive::Yes {
        return Ok(None);
    }
    match os::pidfd(process.pid) {
        // Between the look and the opening another may have come by the same pid.
        Ok(pidfd) if alive(meta, process) == Alive::Yes => Ok(Some(pidfd)),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_one_with_its_pid_and_another_start_is_not() {
        let meta = crate::run::tests_meta();
        let me = this_process();
        assert!(me.start > 0);
        assert_eq!(alive(&meta, me), Alive::Yes);
        assert_eq!(alive(&meta, ProcessId { start: me.start + 1, ..me }), Alive::No);
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
            let inside = ProcessId { pid: innermost_pid(pid).unwrap(), start: start_of(pid).unwrap() };
            assert_eq!((inside.pid, alive(&meta, inside)), (1, Alive::Yes));
            assert!(watch(&meta, inside).unwrap().is_none(), "pid 1 is somebody else here");
        } else {
            eprintln!("skipped(no PID namespace can be made here)");
        }
        above.kill().unwrap();
        above.wait().unwrap();
    }
}
