//! The one place where this crate speaks to the operating system: pidfds, sessions, signals,
//! descriptors. Linux.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use epilogue_journal::Ended;

const SI_TKILL: i32 = -6;

/// A descriptor of a process, which becomes readable when the whole process is gone.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Whether a process of this PID namespace is there, more than its remains. `None`: only /proc can tell which.
pub(crate) fn is_there(pid: u32) -> Option<bool> {
    match pidfd(pid) {
        // Readable when all its threads are gone, also of an exec in a thread that is not the first.
        Ok(pidfd) => Some(!wait_readable(&[pidfd.as_fd()], Some(Duration::ZERO)).ok()?[0]),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Some(false),
        // No pidfds, or no room for one.
        Err(_) => {
            let Ok(pid) = libc::pid_t::try_from(pid) else { return Some(false) };
            // SAFETY: no memory is passed.
            let found = unsafe { libc::kill(pid, 0) } == 0
                || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH);
            if found { None } else { Some(false) }
        }
    }
}

/// The wait status of a process that is gone, whoever's child it was; from Linux 6.15 on.
pub(crate) fn exit_status(pidfd: &OwnedFd) -> Option<i32> {
    /// `struct pidfd_info` of the kernel's first version.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        /// Of process, group and parent; then eight of users and groups.
        ids: [u32; 11],
        exit_code: i32,
    }
    const EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info), for its 64 bytes.
    const GET_INFO: libc::c_ulong = 3 << 30 | 64 << 16 | 0xff << 8 | 11;
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: `info` is valid for reads and writes of the size that the number states.
    let told = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (told == 0 && info.mask & EXIT != 0).then_some(info.exit_code)
}

/// Sends a signal to the process behind a pidfd, which cannot be another with the same pid.
pub(crate) fn signal_by_pidfd(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open; a null siginfo is allowed.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to each, and waits until all of them are gone, or for so long.
pub(crate) fn signal_and_wait(pidfds: &[OwnedFd], signal: i32, until: Instant) {
    for pidfd in pidfds {
        let _ = signal_by_pidfd(pidfd, signal);
    }
    for pidfd in pidfds {
        let left = until.saturating_duration_since(Instant::now());
        let _ = wait_readable(&[pidfd.as_fd()], Some(left));
    }
}

/// Sends a signal to a process group.
pub(crate) fn signal_group(group: u32, signal: i32) -> io::Result<()> {
    let group = libc::pid_t::try_from(group).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: no memory is passed.
    if unsafe { libc::killpg(group, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a process is the leader of its group.
pub(crate) fn leads_group(pid: u32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: no memory is passed.
    unsafe { libc::getpgid(pid) == pid }
}

/// Waits until one of the descriptors is readable; says which are. `None`: for as long as it takes.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let timeout =
        timeout.map_or(-1, |timeout| i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    // SAFETY: `polled` is valid for its length.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        return Ok(vec![false; fds.len()]);
    }
    Ok(polled.iter().map(|fd| fd.revents != 0).collect())
}

/// A descriptor that is readable when one of these signals is pending; they do nothing else from now on.
pub(crate) fn signals(which: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: all zero is a valid set to be written to; the rest are calls on valid arguments.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in which {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        owned(i64::from(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))
    }
}

/// The signals that have come to a descriptor of [`signals`].
pub(crate) fn take_signals(fd: &OwnedFd) -> Vec<Taken> {
    let mut taken = Vec::new();
    loop {
        // SAFETY: all zero is a valid siginfo to be written to, of the size that is passed.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: `info` is valid for writes of `size`.
        let got = unsafe { libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size) };
        if usize::try_from(got) != Ok(size) {
            return taken;
        }
        let sent =
            info.ssi_code == libc::SI_USER || info.ssi_code == libc::SI_QUEUE || info.ssi_code == SI_TKILL;
        // A signal number is small.
        taken.push(Taken { signal: info.ssi_signo as i32, sent });
    }
}

/// A signal, and whether a process sent it. The terminal's come from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) signal: i32,
    pub(crate) sent: bool,
}

/// The signal mask of this thread, to be given to a child.
pub(crate) fn current_mask() -> libc::sigset_t {
    // SAFETY: all zero is a valid set to be written to; only the present mask is asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
        set
    }
}

/// Sets the signal mask, between fork and exec.
pub(crate) fn set_mask(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `mask` is a valid set; it may be called between fork and exec.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a signal is ignored.
pub(crate) fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zero is a valid action to be written to; only the present one is asked for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Whether this process collects its children itself. Where SIGCHLD is ignored the kernel does, without a
/// word.
pub(crate) fn collects_children() -> bool {
    // SAFETY: all zero is a valid action to be written to; only the present one is asked for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), &raw mut action) != 0
            || (action.sa_sigaction != libc::SIG_IGN && action.sa_flags & libc::SA_NOCLDWAIT == 0)
    }
}

/// Writes the pid of this child to its parent, and waits for a byte, or for the parent's end. Between fork
/// and exec. `others_end` is the copy that the child has of the end by which it is told.
pub(crate) fn tell_pid_and_wait(tell: RawFd, wait: RawFd, others_end: RawFd) -> io::Result<()> {
    let pid = std::process::id().to_ne_bytes();
    let mut byte = 0_u8;
    // SAFETY: both buffers are valid for what is passed; this copy of the descriptor is nobody else's. All
    // of it may be called between fork and exec.
    unsafe {
        libc::close(others_end);
        if libc::write(tell, pid.as_ptr().cast(), pid.len()) != 4 {
            return Err(io::Error::last_os_error());
        }
        while libc::read(wait, (&raw mut byte).cast(), 1) < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Gives a signal its default action.
pub(crate) fn default_action(signal: i32) {
    // SAFETY: a plain call on valid arguments.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Orphans below this process become its children.
pub(crate) fn become_subreaper() {
    // SAFETY: no memory is passed. Where it is refused, orphans are init's.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Collects a child that has ended, if there is one: its pid and wait status.
pub(crate) fn reap() -> Option<(u32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    u32::try_from(pid).ok().filter(|pid| *pid != 0).map(|pid| (pid, status))
}

/// How a process ended, from its wait status.
pub(crate) fn ended_by(status: i32) -> Ended {
    if libc::WIFSIGNALED(status) {
        // A signal number is small.
        Ended::Signalled(libc::WTERMSIG(status) as u8)
    } else {
        // An exit status is eight bits.
        Ended::Exited(libc::WEXITSTATUS(status) as u8)
    }
}

/// Ends the process the way the signal would have: its parent sees a death by that signal. PID 1 cannot,
/// and exits with 128 and its number.
pub(crate) fn die_of(signal: i32) -> ! {
    // SAFETY: plain calls on valid arguments. No core file: the death is a message.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
    exit_now(128_u8.saturating_add(u8::try_from(signal).unwrap_or(0)))
}

/// Whether what is written to a descriptor goes nowhere: a pipe without a reader, a terminal that hung up.
pub(crate) fn is_broken(fd: &OwnedFd) -> bool {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one entry, valid for reads and writes.
    let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
    ready > 0 && polled.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0
}

/// Whether there is a terminal that this process answers to.
pub(crate) fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether this program runs with more rights than who started it: it must not believe the environment.
pub fn is_set_uid() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Makes the process the leader of a session of its own: it has no terminal, and no signal to the group
/// that it came from reaches it.
pub(crate) fn leave_session() {
    // SAFETY: no preconditions. It fails only for who leads a group already, which is as good.
    unsafe { libc::setsid() };
}

/// Closes every descriptor but the standard ones.
pub(crate) fn close_inherited() {
    // SAFETY: called in a process that has just begun, and owns none of these descriptors yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if closed != 0 {
        for fd in 3..4096 {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Ends the process without running exit handlers.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Whoever reads this process's stdout sees its end; what is still written goes nowhere.
pub(crate) fn let_go_of_stdout() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        // SAFETY: both are open descriptors.
        unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) };
    }
}

/// Lets the process use what its user may at most: who started it may have lowered that for itself.
pub(crate) fn raise_limits() {
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_CPU, libc::RLIMIT_FSIZE, libc::RLIMIT_AS] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is valid for writes, then for reads.
        unsafe {
            if libc::getrlimit(resource, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(resource, &raw const limit);
            }
        }
    }
}

/// Every signal as by default, and none blocked, for what is started from now on: a child inherits both.
pub(crate) fn default_signals() {
    // SAFETY: plain calls on valid arguments, in a process with one thread.
    unsafe {
        for signal in 1..32 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Whether this thread blocks any of the signals that end a program.
pub(crate) fn blocks_signals() -> bool {
    // SAFETY: all zero is a valid set to be written to; only the present mask is asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD]
            .into_iter()
            .any(|signal| libc::sigismember(&raw const set, signal) == 1)
    }
}

/// The user whose files these are.
pub fn effective_uid() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() }
}

/// The permission bits that new files do not get.
pub(crate) fn umask() -> u32 {
    // SAFETY: no preconditions; set to what it was at once.
    unsafe {
        let now = libc::umask(0o077);
        libc::umask(now);
        now
    }
}

/// What a child does before it becomes another program.
pub(crate) fn prepare_child(umask: Option<u32>) -> io::Result<()> {
    // SAFETY: all of it may be called between fork and exec.
    unsafe {
        // The next payer begins it again: two of it at once would be worse than one cut off.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if let Some(umask) = umask {
            libc::umask(umask);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    Ok(())
}

/// Lets what this process becomes by exec keep a file open, and with it the locks on it. Its number is
/// one that scripts do not use, if so high a one is allowed. Between fork and exec. Returns whether it is
/// kept.
pub(crate) fn keep_over_exec(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: no memory is passed.
    let kept = |above: i32| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, above) } >= 0;
    [200, 10, 3].into_iter().any(kept)
}

/// The parent of this process; 0 where that is outside of its PID namespace.
pub(crate) fn parent() -> u32 {
    // SAFETY: no preconditions.
    u32::try_from(unsafe { libc::getppid() }).unwrap_or(0)
}

/// Sends a signal to whoever has a pid: to a child that nobody has collected yet, or, on a kernel without
/// pidfds, to a process that was there a moment ago.
pub(crate) fn signal_pid(pid: u32, signal: i32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: no memory is passed.
        unsafe { libc::kill(pid, signal) };
    }
}

/// A clock of this machine that also runs while it sleeps, in milliseconds.
#[cfg(feature = "postgres")]
pub(crate) fn boot_clock_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    // Neither is ever negative.
    (now.tv_sec as u64) * 1000 + (now.tv_nsec as u64) / 1_000_000
}

/// Clock ticks a second, the unit of a process's start.
pub(crate) fn clock_ticks() -> u64 {
    // SAFETY: no preconditions.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap_or(100)
}

/// Opens a path below a directory, without leaving it by a link, a mount or `..`.
pub(crate) fn open_beneath(dir: &File, path: &OsStr, flags: i32) -> io::Result<File> {
    const RESOLVE_NO_XDEV: u64 = 0x01;
    const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
    const RESOLVE_NO_SYMLINKS: u64 = 0x04;
    const RESOLVE_BENEATH: u64 = 0x08;
    let path = CString::new(path.as_bytes())?;
    let how = [
        u64::try_from(flags | libc::O_CLOEXEC).unwrap_or(0),
        0,
        RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH,
    ];
    // SAFETY: `path` ends in NUL; `how` has the three fields of an open_how, of the size that is passed.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), how.as_ptr(), size_of_val(&how))
    };
    Ok(File::from(owned(fd)?))
}

/// Removes one name in a directory.
pub(crate) fn unlink_at(dir: &File, name: &OsStr, directory: bool) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: the descriptor is open, and `name` ends in NUL.
    if unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made it for this caller.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
