//! Descriptors that come from the process before this one, or go to the one after it.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Takes over a descriptor that was left open for this program; it is not left open for those that this one starts.
///
/// # Safety
///
/// Nobody else in this process may own `fd`: it was open when the program began, and is taken once.
pub(crate) unsafe fn take(fd: RawFd) -> io::Result<OwnedFd> {
    if !is_socket_or_pipe(fd)? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {fd} is no socket and no pipe"),
        ));
    }
    set_close_on_exec(fd, true)?;
    // SAFETY: it is open, or the call above would have failed, and the caller vouches for the rest.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes it as a TCP listener, which it has to be.
pub(crate) fn into_listener(fd: OwnedFd) -> io::Result<TcpListener> {
    if !is_listening(&fd)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket that listens"));
    }
    let listener = TcpListener::from(fd);
    // Of a Unix socket it would be an error.
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Leaves these open, under their numbers, in the program that `command` starts, and in no other.
pub(crate) fn leave_open(command: &mut Command, all: Vec<OwnedFd>) {
    let open = move || all.iter().try_for_each(|fd| set_close_on_exec(fd.as_raw_fd(), false));
    // SAFETY: between fork and exec it calls fcntl, which is async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(open) };
}

fn is_socket_or_pipe(fd: RawFd) -> io::Result<bool> {
    // SAFETY: a stat is plain old data; the call writes one, or fails for a number that is no open descriptor.
    let mode = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &raw mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.st_mode
    };
    Ok(matches!(mode & libc::S_IFMT, libc::S_IFSOCK | libc::S_IFIFO))
}

fn set_close_on_exec(fd: RawFd, close: bool) -> io::Result<()> {
    // SAFETY: no memory is passed; a number that is no open descriptor is an error.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, if close { libc::FD_CLOEXEC } else { 0 }) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn is_listening(fd: &OwnedFd) -> io::Result<bool> {
    let mut listens: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    let fd: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(fd);
    // SAFETY: both point to variables of the sizes that are passed.
    let asked = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut listens).cast(),
            &raw mut size,
        )
    };
    if asked == 0 { Ok(listens != 0) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_listens_is_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(into_listener(listener.into()).unwrap().local_addr().unwrap(), address);
        assert_eq!(into_listener(connected.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(into_listener(file.into()).is_err());
    }
}
