//! The one place where this crate speaks to the operating system: locks, room, kinds of file system.
//! Linux.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Bytes of the file that are locked while a segment is put in its place.
pub(crate) const GROW: i64 = 0;
/// Bytes that are locked while a word is changed without a mapping.
pub(crate) const WORD: i64 = 1;

/// A lock on one byte of a file. Unlocked when dropped, or when the last process that has this very
/// opening of the file is gone.
pub(crate) struct RangeLock(RawFd, i64);

/// Waits for the lock of one byte. Locks belong to the opening of the file, so other openings are kept
/// out, of this process as of others; threads that share one are not.
pub(crate) fn lock_range(file: &File, byte: i64) -> io::Result<RangeLock> {
    let fd = file.as_raw_fd();
    let request = range(libc::F_WRLCK, byte);
    loop {
        // SAFETY: the descriptor is open, and `request` is a valid flock to read.
        if unsafe { libc::fcntl(fd, libc::F_OFD_SETLKW, &raw const request) } == 0 {
            return Ok(RangeLock(fd, byte));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

impl Drop for RangeLock {
    fn drop(&mut self) {
        let request = range(libc::F_UNLCK, self.1);
        // SAFETY: as above; the file outlives its lock, because both are used by one caller.
        unsafe { libc::fcntl(self.0, libc::F_OFD_SETLK, &raw const request) };
    }
}

fn range(kind: i32, byte: i64) -> libc::flock {
    // SAFETY: all zero is a valid flock.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    // The constants fit the field on every Linux.
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    request.l_start = byte;
    request.l_len = 1;
    request
}

/// Gives the file all its blocks now: a store into a hole of a mapped file kills the process with
/// SIGBUS when the disk is full.
pub(crate) fn allocate(file: &File, bytes: usize) -> io::Result<()> {
    let length = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    loop {
        // SAFETY: no memory is passed; the descriptor is open for writing.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
            0 => return Ok(()),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Whether a store into a mapping of this file is seen by every process of this machine, and locks are
/// kept: not so over a network, and not certainly so in user space.
pub(crate) fn maps_safely(file: &File) -> io::Result<bool> {
    Ok(!UNSAFE_TO_MAP.iter().any(|(kind, _)| file_system(file).is_ok_and(|found| found == *kind)))
}

/// The name of the file system, where it is one that a journal is not mapped on.
pub(crate) fn unsafe_file_system(file: &File) -> Option<&'static str> {
    let found = file_system(file).ok()?;
    UNSAFE_TO_MAP.iter().find(|(kind, _)| *kind == found).map(|(_, name)| *name)
}

/// Whether what is in the file system is gone when the machine goes down.
pub(crate) fn is_volatile(file: &File) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    Ok([TMPFS, RAMFS].contains(&file_system(file)?))
}

const UNSAFE_TO_MAP: [(i64, &str); 8] = [
    (0x6969, "NFS"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9p"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

fn file_system(file: &File) -> io::Result<i64> {
    // SAFETY: all zero is a valid statfs.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is valid for writes; the descriptor is open.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    #[allow(clippy::unnecessary_cast, reason = "its width differs between C libraries")]
    Ok(found.f_type as i64)
}

/// Makes the file, which must not be there, for this user alone.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    options().create_new(true).mode(0o600).open(path)
}

/// Opens the file, but not through a symbolic link.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    options().open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // O_CLOEXEC is set by std.
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

/// What keeps this file from being trusted, if anything does.
pub(crate) fn distrust(file: &File) -> io::Result<Option<String>> {
    let found = file.metadata()?;
    // SAFETY: no preconditions.
    let me = unsafe { libc::geteuid() };
    Ok(if !found.is_file() {
        Some("it is no regular file".into())
    } else if found.uid() != me {
        Some(format!("it belongs to uid {}, and this is uid {me}", found.uid()))
    } else if found.nlink() != 1 {
        Some(format!("it has {} names, and must have one", found.nlink()))
    } else if found.mode() & 0o077 != 0 {
        Some(format!("its mode is {:o}, and others must have no access (600)", found.mode() & 0o777))
    } else {
        None
    })
}

/// Fills the bytes with what nobody can guess.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is valid for writes of its length.
        match unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) } {
            got @ 1.. => filled += usize::try_from(got).unwrap_or(0),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}
