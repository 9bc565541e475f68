//! The run's own directory, and what runs before it left over.
//!
//! A run that is killed with SIGKILL cannot clean up. The next one can: each run has a directory
//! with a lock that goes with its process, and everything it starts carries its mark in the
//! environment. A directory whose lock is free belongs to a run that is gone.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::os;
use crate::running;

const PORTS: &str = "ports";
const REPORTS: &str = "reports";

/// Where reports go when nobody says where. The latest one stays.
///
/// # Errors
///
/// When the directory cannot be made.
pub fn report_dir() -> io::Result<PathBuf> {
    let path = base()?.join(REPORTS);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// This run's directory. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    id: String,
    _lock: File,
}

impl RunDir {
    /// Makes a directory for a new run.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or the place belongs to somebody else.
    pub(crate) fn create() -> io::Result<RunDir> {
        let base = base()?;
        // Short: targets put Unix sockets below it, whose paths have room for 107 bytes.
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let id: String = uuid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        // Made under a name that nobody sweeps, so that no other run can take it for abandoned before
        // its lock is held.
        let (path, making) = (base.join(&id), base.join(format!(".{id}")));
        DirBuilder::new().mode(0o700).create(&making)?;
        let lock = File::create(making.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(&making, &path)?;
        Ok(RunDir { path, id, _lock: lock })
    }

    /// A new directory for one row.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(crate) fn row(&self, name: &str) -> io::Result<RowDir> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        Ok(RowDir { mark: format!("{}.{name}", self.id), path })
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// One row's directory. Dropped, it is removed.
pub(crate) struct RowDir {
    pub(crate) path: PathBuf,
    pub(crate) mark: String,
}

impl Drop for RowDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Ends what runs that are gone have left running, removes their files, and says what it did.
///
/// # Errors
///
/// When the place for runs cannot be read.
pub(crate) fn sweep() -> io::Result<Vec<String>> {
    let mut said = Vec::new();
    for entry in fs::read_dir(base()?)?.flatten() {
        let path = entry.path();
        let Some(id) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let making = id.starts_with('.') && is_young(&path);
        if path.is_dir() && id != PORTS && id != REPORTS && !making && is_abandoned(&path) {
            said.push(clean(&path, &id));
        }
    }
    Ok(said)
}

fn is_young(run: &Path) -> bool {
    let modified = fs::metadata(run).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 60))
}

fn is_abandoned(run: &Path) -> bool {
    match File::open(run.join("lock")) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        // Killed while its directory was being removed, lock first.
        Err(_) => true,
    }
}

fn clean(run: &Path, id: &str) -> String {
    let mut ended = Vec::new();
    let rows = fs::read_dir(run).into_iter().flatten().flatten();
    for row in rows.filter_map(|row| row.file_name().into_string().ok()) {
        ended.extend(running::end_marked(&format!("{id}.{row}")));
        ended.extend(running::end_marked(&format!("{id}.{row}.again")));
    }
    remove(run);
    let ended = if ended.is_empty() {
        "nothing was running".to_owned()
    } else {
        format!("ended {}", ended.join(", "))
    };
    format!("cleaned up after a run that was killed: {ended}; removed {}", run.display())
}

/// Takes a port for one row: outside the range that the kernel hands out by itself, free, and not
/// taken by another run.
///
/// # Errors
///
/// When none of a thousand is free.
pub(crate) fn take_port(row: &str) -> io::Result<(u16, PortLock)> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    let ports = base()?.join(PORTS);
    match DirBuilder::new().mode(0o700).create(&ports) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Rows start their search apart, so that the port of the last row can rest.
    let salt = row.bytes().fold(0_u32, |salt, byte| salt.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let start = std::process::id().wrapping_mul(97).wrapping_add(salt.wrapping_mul(13));
    for step in 0..1000 {
        let Ok(port) = u16::try_from(FIRST + start.wrapping_add(step) % COUNT) else { continue };
        let lock = File::create(ports.join(port.to_string()))?;
        if lock.try_lock().is_ok() && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok((port, PortLock { _lock: lock }));
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port between 20000 and 30000"))
}

/// Keeps a port from other runs while it lives.
pub(crate) struct PortLock {
    _lock: File,
}

/// `<tmp>/epilogue-prove-<uid>`, ours alone.
fn base() -> io::Result<PathBuf> {
    let uid = os::user();
    let path = std::env::temp_dir().join(format!("epilogue-prove-{uid}"));
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(&path)?;
    if !metadata.is_dir() || metadata.uid() != uid {
        let whose = format!("{} belongs to somebody else", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, whose));
    }
    Ok(path)
}

fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("epilogue: {} could not be removed: {error}", path.display());
        }
        _ => {}
    }
}
