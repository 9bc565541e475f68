//! Removing files and trees: below an anchor, never through a link, and only what was meant.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::os;

/// Removes one file, socket, link or empty directory.
///
/// The directory in which it lies is noted by device and inode when this is made: if another stands in
/// its place when it runs, nothing is removed and the record is parked. Amended with [`Identity::of`] the
/// file, it removes that very file: another that has its name by then is left alone, because ours is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveFile(Place);

/// Removes a directory with all that is in it, without following links or crossing into mounts.
///
/// As [`RemoveFile`] otherwise. It is not run while a newer cleanup of its scope has failed: an unmount
/// that did not succeed must stop the removal below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveTree(Place);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    dir: Bytes,
    name: Bytes,
    /// Of the directory.
    identity: Identity,
}

/// A path as it is: not every one is UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Raw(Vec<u8>),
}

impl Bytes {
    fn of(path: &OsStr) -> Bytes {
        path.to_str().map_or_else(|| Bytes::Raw(path.as_bytes().to_vec()), |text| Bytes::Text(text.into()))
    }

    fn path(&self) -> OsString {
        match self {
            Bytes::Text(text) => text.into(),
            Bytes::Raw(bytes) => OsString::from_vec(bytes.clone()),
        }
    }
}

/// Which file it is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    dev: u64,
    ino: u64,
    /// When it was made, in nanoseconds since 1970: an inode is used again. 0 where nobody knows.
    born: u64,
}

impl Identity {
    /// Of what is at this path now; a link is not followed.
    ///
    /// # Errors
    ///
    /// When nothing is there.
    pub fn of(path: &Path) -> io::Result<Identity> {
        fs::symlink_metadata(path).map(|found| Identity::from(&found))
    }

    fn of_file(file: &File) -> io::Result<Identity> {
        file.metadata().map(|found| Identity::from(&found))
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(found: &fs::Metadata) -> Identity {
        let born = found.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let born = born.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Identity { dev: found.dev(), ino: found.ino(), born }
    }
}

impl Place {
    fn new(path: &Path) -> io::Result<Place> {
        let refused =
            |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", path.display()));
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(refused("it must end in a name, not in / or .."));
        };
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(refused("it must not contain .."));
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let dir = fs::canonicalize(parent)?;
        let whole = dir.join(name);
        if dir == Path::new("/") && whole.is_dir() {
            return Err(refused("a directory at the root is not removed"));
        }
        if std::env::var_os("HOME").is_some_and(|home| Path::new(&home) == whole) {
            return Err(refused("the home directory is not removed"));
        }
        let identity = Identity::of(&dir)?;
        Ok(Place { dir: Bytes::of(dir.as_os_str()), name: Bytes::of(name), identity })
    }

    fn path(&self) -> PathBuf {
        Path::new(&self.dir.path()).join(self.name.path())
    }

    /// The directory, if it is the one that was meant. `None`: it is gone, and what was in it too.
    fn open(&self) -> Result<Option<File>, ActionError> {
        let dir = match File::open(self.dir.path()) {
            Ok(dir) => dir,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if Identity::of_file(&dir)? != self.identity {
            let dir = self.path();
            let dir = dir.parent().unwrap_or(&dir);
            return Err(ActionError::park(format!(
                "{} is not the directory that it was when this was registered",
                dir.display()
            )));
        }
        Ok(Some(dir))
    }

    /// What lies under the name, if that is still what was meant.
    fn look(&self, dir: &File, cx: &ActionCx) -> Result<Option<File>, ActionError> {
        let found = match os::open_beneath(dir, &self.name.path(), libc::O_PATH | libc::O_NOFOLLOW) {
            Ok(found) => found,
            // The last component is a link: it is the link itself that would be removed.
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return self.link(cx),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                return Err(ActionError::park(format!("{} is a mount point now", self.path().display())));
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(meant) = cx.amendment::<Identity>()?
            && Identity::of_file(&found)? != meant
        {
            // Ours is gone; what has its name now is somebody else's, perhaps the program's next start's.
            return Ok(None);
        }
        Ok(Some(found))
    }

    fn link(&self, cx: &ActionCx) -> Result<Option<File>, ActionError> {
        if cx.amendment::<Identity>()?.is_some_and(|meant| Identity::of(&self.path()).ok() != Some(meant)) {
            return Ok(None);
        }
        // A handle to look at; the name is removed, whatever it points to.
        Ok(Some(File::open("/")?))
    }
}

impl RemoveFile {
    /// For the file that is, or will be, at this path. Its directory must be there.
    ///
    /// # Errors
    ///
    /// When the directory is not there, or the path ends in none.
    pub fn new(path: impl AsRef<Path>) -> io::Result<RemoveFile> {
        Place::new(path.as_ref()).map(RemoveFile)
    }
}

impl RemoveTree {
    /// For the directory that is, or will be, at this path. The one above it must be there.
    ///
    /// # Errors
    ///
    /// When the one above is not there, the path ends in none, or it is one that nobody means: a
    /// directory at the root, or the home directory.
    pub fn new(path: impl AsRef<Path>) -> io::Result<RemoveTree> {
        Place::new(path.as_ref()).map(RemoveTree)
    }
}

impl Action for RemoveFile {
    const NAME: &'static str = "epilogue.remove_file";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let Some(dir) = self.0.open()? else { return Ok(()) };
        let Some(_found) = self.0.look(&dir, cx)? else { return Ok(()) };
        remove_name(&dir, &self.0.name.path())
    }

    fn describe(&self) -> String {
        format!("rm {}", self.0.path().display())
    }
}

impl Action for RemoveTree {
    const NAME: &'static str = "epilogue.remove_tree";
    const DESTROYS: bool = true;

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let Some(dir) = self.0.open()? else { return Ok(()) };
        let name = self.0.name.path();
        match self.0.look(&dir, cx)? {
            None => Ok(()),
            Some(found) if found.metadata()?.is_dir() && fs::symlink_metadata(self.0.path())?.is_dir() => {
                empty(&dir, &name, cx)?;
                remove_name(&dir, &name)
            }
            Some(_) => remove_name(&dir, &name),
        }
    }

    fn describe(&self) -> String {
        format!("rm -r {}", self.0.path().display())
    }
}

/// Removes a name, whatever it is a name of.
fn remove_name(dir: &File, name: &OsStr) -> Result<(), ActionError> {
    match os::unlink_at(dir, name, false) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EISDIR) => match os::unlink_at(dir, name, true) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Gives a directory of this user back the permissions without which it cannot be emptied: module caches and
/// tests leave such ones.
fn unlocked(parent: &File, name: &OsStr) -> io::Result<()> {
    let dir = os::open_beneath(parent, name, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)?;
    let found = dir.metadata()?;
    if found.mode() & 0o700 != 0o700 && found.uid() == os::effective_uid() {
        // By its descriptor, which a descriptor of this kind allows only by way of its name here.
        fs::set_permissions(format!("/proc/self/fd/{}", dir.as_raw_fd()), Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Empties a directory, by descriptors all the way: what is moved elsewhere meanwhile is not followed.
fn empty(parent: &File, name: &OsStr, cx: &ActionCx) -> Result<(), ActionError> {
    if cx.remaining().is_zero() {
        return Err(ActionError::retry("it took too long; what is left is removed by the next attempt"));
    }
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let dir = match unlocked(parent, name).and_then(|()| os::open_beneath(parent, name, flags)) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
            return Err(ActionError::retry(format!("{} is a mount point", name.display())));
        }
        Err(error) => return Err(error.into()),
    };
    // By its descriptor: the path to it may lead elsewhere by now.
    for entry in fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            empty(&dir, &name, cx)?;
        }
        remove_name(&dir, &name)?;
    }
    Ok(())
}
