//! What `/proc` shows of processes.
//!
//! The `/proc` that is mounted may be that of a PID namespace above this one (`unshare --pid` without a
//! mount of its own): the numbers there are not the pids of here. So nothing outside of this file makes a
//! path out of a pid.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::os;

/// A process of this PID namespace, as `/proc` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// Its pid here.
    pub(crate) pid: u32,
    /// Its number there.
    number: u32,
}

/// Looks for a process of this PID namespace. Not to be shown is no proof that it is not there: it may be
/// hidden from this user, or there is no `/proc`.
pub(crate) fn find(pid: u32) -> Option<Shown> {
    match Mounted::look()? {
        Mounted::Own => Some(Shown { pid, number: pid }).filter(|shown| shown.is_there()),
        Mounted::OneAbove => in_one_above().find(|shown| shown.pid == pid),
    }
}

/// Every process of this PID namespace that is seen.
pub(crate) fn all() -> Vec<Shown> {
    match Mounted::look() {
        None => Vec::new(),
        Some(Mounted::Own) => numbers().map(|number| Shown { pid: number, number }).collect(),
        Some(Mounted::OneAbove) => in_one_above().collect(),
    }
}

/// The processes with this pid in a PID namespace, be it this one or one below. Not to be seen is no proof.
pub(crate) fn of_namespace(namespace: u64, pid: u32) -> impl Iterator<Item = Shown> {
    let all = numbers().map(move |number| Shown { pid, number });
    all.filter(move |shown| shown.namespace() == Some(namespace) && shown.pids().pop() == Some(pid))
}

/// The pid here of a number that `/proc` has told, as of a parent or a child.
pub(crate) fn pid_of(number: u32) -> Option<u32> {
    match Mounted::look()? {
        Mounted::Own => Some(number),
        Mounted::OneAbove => in_one_above().find(|shown| shown.number == number).map(|shown| shown.pid),
    }
}

/// The PID namespace of this process.
pub(crate) fn own_namespace() -> u64 {
    // Not kept: a forked child may be in another.
    fs::metadata("/proc/self/ns/pid").map_or(0, |found| found.ino())
}

/// Whose `/proc` it is that is mounted.
enum Mounted {
    /// Of this PID namespace: its numbers are the pids of here.
    Own,
    OneAbove,
}

impl Mounted {
    /// `None`: of one that this process is not in, or none at all.
    fn look() -> Option<Mounted> {
        let number = fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()?;
        // By the pid alone it could be one above, and chance.
        let pids = Shown { pid: 0, number }.pids();
        // Kernels without PID namespaces, and some that stand for one, tell none.
        let own = if pids.is_empty() { number == std::process::id() } else { pids == [std::process::id()] };
        Some(if own { Mounted::Own } else { Mounted::OneAbove })
    }
}

fn numbers() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Those of this namespace, as one above it shows them. Whose namespace may not be read is not among them: it
/// could be the pid of another.
fn in_one_above() -> impl Iterator<Item = Shown> {
    let here = own_namespace();
    numbers().filter_map(move |number| {
        let shown = Shown { pid: 0, number };
        let pid = shown.pids().pop().filter(|_| shown.namespace() == Some(here))?;
        Some(Shown { pid, number })
    })
}

impl Shown {
    fn is_there(self) -> bool {
        fs::symlink_metadata(format!("/proc/{}", self.number)).is_ok()
    }

    fn text(self, name: &str) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/{name}", self.number)).ok()
    }

    /// What the system says of it in one line.
    pub(crate) fn stat(self) -> Option<Stat> {
        self.text("stat").map(Stat)
    }

    /// A process whose first thread has ended shows as a zombie while others run on.
    pub(crate) fn threads(self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.number)).map_or(0, Iterator::count)
    }

    /// Its pids, from the namespace of `/proc` down to its own.
    fn pids(self) -> Vec<u32> {
        let status = self.text("status").unwrap_or_default();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn namespace(self) -> Option<u64> {
        fs::metadata(format!("/proc/{}/ns/pid", self.number)).ok().map(|found| found.ino())
    }

    /// The first name of its program.
    pub(crate) fn command_name(self) -> String {
        self.text("comm").unwrap_or_default().trim().to_owned()
    }

    /// Whether it is on its way out. (In the middle of an exec it has no command line either.)
    pub(crate) fn is_leaving(self) -> bool {
        self.stat().is_some_and(|stat| stat.is_exiting()) && self.threads() <= 1
    }

    /// Whether it was started with a variable of this name in its environment, and, if one is given, of this
    /// value. Not known of who hides it, or is another user's.
    pub(crate) fn carries(self, variable: &str, value: Option<&str>) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", self.number)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| {
            let found = entry.strip_prefix(variable.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            found.is_some_and(|found| value.is_none_or(|value| found == value.as_bytes()))
        })
    }
}

/// The children of this process, by their pids here.
pub(crate) fn children() -> Vec<Shown> {
    let mut numbers = Vec::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        numbers.extend(text.split_whitespace().filter_map(|number| number.parse::<u32>().ok()));
    }
    numbers.into_iter().filter_map(|number| Some(Shown { pid: pid_of(number)?, number })).collect()
}

/// One line of proc(5).
pub(crate) struct Stat(String);

/// When a process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// In clock ticks since the machine came up.
    At(u64),
    /// By a clock whose difference to that of the machine is not known here.
    Untold,
}

impl Stat {
    /// A field, by its number in proc(5), from 3 on. The name before them may hold anything, so they are
    /// counted from its closing bracket.
    fn field(&self, number: usize) -> Option<&str> {
        self.0.rsplit_once(')')?.1.split_whitespace().nth(number - 3)
    }

    pub(crate) fn is_remains(&self) -> bool {
        matches!(self.field(3), Some("Z" | "X"))
    }

    fn is_exiting(&self) -> bool {
        const PF_EXITING: u64 = 4;
        self.field(9).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & PF_EXITING != 0)
    }

    /// Its parent's number there; 0 for one that is not shown.
    pub(crate) fn parent(&self) -> Option<u32> {
        self.field(4)?.parse().ok()
    }

    /// The wait status of what remains of it.
    pub(crate) fn status(&self) -> Option<i32> {
        self.field(52)?.parse().ok()
    }

    pub(crate) fn start(&self) -> Option<Start> {
        let told = self.field(22)?.parse::<u64>().ok()?;
        Some(boot_offset_ns().map_or(Start::Untold, |offset| Start::At(machine_ticks(told, offset))))
    }
}

/// How much later the clock since boot is here than on the machine: a time namespace may set it, and start
/// times are told by it. `None`: the file tells another one's, that of children yet to come.
fn boot_offset_ns() -> Option<i128> {
    // Not kept: a forked child may be in another.
    let Ok(offsets) = fs::read_to_string("/proc/self/timens_offsets") else { return Some(0) };
    let boot = offsets.lines().find_map(|line| line.strip_prefix("boottime"));
    let mut numbers = boot.unwrap_or_default().split_whitespace().map(str::parse::<i128>);
    let (Some(Ok(seconds)), Some(Ok(nanos))) = (numbers.next(), numbers.next()) else { return Some(0) };
    let of = |name| fs::metadata(format!("/proc/self/ns/{name}")).map(|found| found.ino()).ok();
    (of("time") == of("time_for_children")).then_some(seconds * 1_000_000_000 + nanos)
}

/// A start as the machine's own clock tells it. One before the clock of a namespace began is told as what is
/// left when 64 bits of nanoseconds wrap around.
fn machine_ticks(told: u64, offset_ns: i128) -> u64 {
    let tick = 1_000_000_000 / i128::from(os::clock_ticks().max(1));
    let mut ns = i128::from(told) * tick;
    if ns > i128::from(i64::MAX) {
        ns -= 1 << 64;
    }
    u64::try_from((ns - offset_ns).div_euclid(tick)).unwrap_or(0)
}

/// Whether two start times are of one process. Where a clock is offset by parts of a tick, each was rounded
/// another way; no pid comes back within one.
pub(crate) fn same_start(one: u64, other: u64) -> bool {
    one.abs_diff(other) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel shows of a start, in nanoseconds, to a namespace with this offset.
    fn told(start_ns: i128, offset_ns: i128) -> u64 {
        let wrapped = (start_ns + offset_ns).rem_euclid(1 << 64);
        u64::try_from(wrapped / 10_000_000).unwrap()
    }

    #[test]
    fn a_start_is_the_same_whatever_the_offset_of_the_clock_that_tells_it() {
        assert_eq!(os::clock_ticks(), 100);
        for start in [0, 1, 9_999_999, 10_000_000, 12_345_678_901, 86_400_000_000_123] {
            let truth = told(start, 0);
            for offset in [0, 1, 5_005_000_000, -1, -5_000_000, -86_399_000_000_000, 1 << 55, -(1 << 55)] {
                let found = machine_ticks(told(start, offset), offset);
                assert!(same_start(found, truth), "{start} {offset}: {found}, not {truth}");
            }
        }
    }

    #[test]
    fn this_process_and_its_children_are_shown_under_their_own_pids() {
        let me = std::process::id();
        let shown = find(me).unwrap();
        assert_eq!((shown.pid, shown.pids().last()), (me, Some(&me)));
        assert!(all().contains(&shown) && find(u32::MAX).is_none());
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(children().iter().any(|shown| shown.pid == child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
