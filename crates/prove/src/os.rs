//! The one place where this crate speaks to the operating system by hand. Linux.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};

use tokio::net::TcpStream;

/// Bytes of this connection that the other side's kernel has acknowledged; 0 if it cannot be told.
pub(crate) fn bytes_acked(stream: &TcpStream) -> u64 {
    // struct tcp_info of linux/tcp.h: tcpi_bytes_acked is the 64-bit word at byte 120.
    const BYTES_ACKED: usize = 120;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match info[BYTES_ACKED..].first_chunk::<8>() {
        Some(word) if done == 0 && length as usize >= BYTES_ACKED + 8 => u64::from_ne_bytes(*word),
        _ => 0,
    }
}

/// Whether something can be read at this moment; nothing is taken.
pub(crate) fn readable(stream: &TcpStream) -> bool {
    let mut byte = 0u8;
    // SAFETY: reads at most one byte into `byte`, and leaves it in the queue.
    let read = unsafe {
        libc::recv(stream.as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT)
    };
    read >= 0
}

/// Makes the close of this connection a reset.
#[cfg(test)]
pub(crate) fn reset(stream: &TcpStream) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: passes a valid linger of its own size.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const now).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Gives the command a session of its own, an empty signal mask, default actions and no core file:
/// a background job of a shell would otherwise pass on SIGINT ignored.
pub(crate) fn isolate(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are made: setsid, sigprocmask,
    // signal, setrlimit.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            for number in 1..32 {
                libc::signal(number, libc::SIG_DFL);
            }
            let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
            Ok(())
        });
    }
}

/// Orphans of what this process starts become its children, so that they can be found and waited
/// for.
pub(crate) fn adopt_orphans() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Sends a signal to one process. False if it is gone.
pub(crate) fn kill(pid: u32, signal: i32) -> bool {
    match i32::try_from(pid) {
        // SAFETY: no memory is passed; a pid above 0 names one process.
        Ok(pid) if pid > 0 => unsafe { libc::kill(pid, signal) == 0 },
        _ => false,
    }
}

/// Ends a whole process group, named by its leader.
pub(crate) fn kill_group(leader: u32) {
    if let Ok(leader) = i32::try_from(leader)
        && leader > 1
    {
        // SAFETY: no memory is passed; a number below -1 names one group.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Takes the exit status of a child that has ended. `None` while it runs, or if it is no child.
pub(crate) fn reap(pid: u32) -> Option<ExitStatus> {
    let pid = i32::try_from(pid).ok()?;
    let mut status = 0;
    // SAFETY: `status` is valid to write to.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
    (reaped == pid).then(|| ExitStatus::from_raw(status))
}

pub(crate) fn user() -> u32 {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() }
}
