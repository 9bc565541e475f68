//! Starting a child that does not begin before its parent has a descriptor of it.
//!
//! A program that ignores SIGCHLD has its children collected by the kernel: of one that is short there is
//! then nothing left to open, and how it ended cannot be asked. So the child waits, between fork and exec.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use crate::os;

/// Starts it. The descriptor is missing where the system has none.
pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Option<OwnedFd>)> {
    if os::collects_children() {
        let child = command.spawn()?;
        let pidfd = os::pidfd(child.id()).ok();
        return Ok((child, pidfd));
    }
    let (told, tell) = io::pipe()?;
    let (wait, go) = io::pipe()?;
    let others_end = go.as_raw_fd();
    // SAFETY: it only calls what may be called between fork and exec.
    unsafe {
        command.pre_exec(move || os::tell_pid_and_wait(tell.as_raw_fd(), wait.as_raw_fd(), others_end));
    }
    // `spawn` returns when the child has begun, so somebody else has to let it.
    std::thread::scope(|s| {
        let opening = s.spawn(move || open(told, go));
        let child = command.spawn();
        if child.is_err() {
            // No child may have told its pid: the ends that were kept for it are closed with the command.
            *command = Command::new("");
        }
        let pidfd = opening.join().ok().flatten();
        Ok((child?, pidfd))
    })
}

/// Opens the process that tells its pid, and lets it go on.
fn open(mut told: io::PipeReader, mut go: io::PipeWriter) -> Option<OwnedFd> {
    let mut pid = [0; 4];
    told.read_exact(&mut pid).ok()?;
    let pidfd = os::pidfd(u32::from_ne_bytes(pid)).ok();
    let _ = go.write_all(&[0]);
    pidfd
}
