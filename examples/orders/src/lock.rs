//! The lock file: one service per run directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A held lock. The lock itself goes with the process; the file goes with [`release`](Lock::release).
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock, also over a file that a dead process left behind.
    ///
    /// # Errors
    ///
    /// When another live process holds it, or the file cannot be made.
    pub fn acquire(path: &Path) -> io::Result<Lock> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let held = format!("{} is held by another process", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, held));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock { path: path.to_owned(), _file: file })
    }

    /// Removes the file, then lets go of the lock.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn release(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}
