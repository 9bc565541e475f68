//! Where runs are kept: the first place that works.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use epilogue_journal::Tier;

use crate::environment;
use crate::os::effective_uid;

/// The variable that names the directory, before any default.
pub const STATE_ENV: &str = "EPILOGUE_STATE_DIR";

/// The directory of all runs of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The directory.
    pub path: PathBuf,
    /// How it was found: an option, a variable, a default.
    pub from: &'static str,
    /// What is there does not outlive the machine's uptime.
    pub volatile: bool,
    /// The places before it that did not work, and why.
    pub passed_over: Vec<(PathBuf, String)>,
}

/// The most that the journals of a user may hold, in MiB: then no run is begun any more.
pub(crate) const MAX_MIB: u64 = 256;
/// From here on whoever begins a run is warned.
const MANY_MIB: u64 = 64;

/// Why there is no place for runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// The one that was named does not work.
    #[error("{}: {why}", path.display())]
    Named {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// None of the usual ones does.
    #[error("no place for the journal: {}", list(.0))]
    Nowhere(Vec<(PathBuf, String)>),
}

fn list(tried: &[(PathBuf, String)]) -> String {
    let tried: Vec<_> = tried.iter().map(|(path, why)| format!("{}: {why}", path.display())).collect();
    tried.join("; ")
}

struct Candidate {
    path: PathBuf,
    from: &'static str,
    volatile: bool,
    /// Somebody named it: another would not do.
    named: bool,
}

impl Home {
    /// What the journals in it hold together, in MiB.
    pub fn mib(&self) -> u64 {
        let runs = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let journals = runs.filter_map(|run| fs::metadata(run.path().join("journal")).ok());
        journals.map(|found| found.len()).sum::<u64>() >> 20
    }

    /// A warning, where so much is kept that soon nothing more can be registered.
    pub fn warning(&self) -> Option<String> {
        self.warning_at(self.mib())
    }

    /// The same for a size that is known.
    pub(crate) fn warning_at(&self, mib: u64) -> Option<String> {
        (mib >= MANY_MIB).then(|| {
            format!(
                "{} holds {mib} MiB of journals, and at {MAX_MIB} MiB no run can begin: see 'epilogue pending \
                 list', and 'epilogue recover'",
                self.path.display()
            )
        })
    }

    /// Finds the directory, and makes it if it is not there.
    ///
    /// In this order: `named`; `EPILOGUE_STATE_DIR`; `STATE_DIRECTORY`, which systemd sets; for root
    /// `/var/lib/epilogue`; else `XDG_STATE_HOME/epilogue`, or `~/.local/state/epilogue`;
    /// `XDG_RUNTIME_DIR/epilogue`; `/dev/shm/epilogue-UID`; `/tmp/epilogue-UID`. A place works if a file
    /// can be made and locked there, and nobody else can write to it.
    ///
    /// # Errors
    ///
    /// [`HomeError`]: a place that was named and does not work is not passed over in silence.
    pub fn find(named: Option<&Path>, tier: Tier) -> Result<Home, HomeError> {
        let mut passed_over = Vec::new();
        for mut candidate in candidates(named) {
            let usable = usable(&candidate.path);
            candidate.volatile |= usable.is_ok() && environment::in_memory(&candidate.path);
            let why = match usable {
                Ok(()) if tier == Tier::Power && candidate.volatile => {
                    "it is gone when the machine goes down".to_owned()
                }
                Ok(()) => {
                    let Candidate { path, from, volatile, .. } = candidate;
                    return Ok(Home { path, from, volatile, passed_over });
                }
                Err(why) => why,
            };
            if candidate.named {
                return Err(HomeError::Named { path: candidate.path, why });
            }
            passed_over.push((candidate.path, why));
        }
        Err(HomeError::Nowhere(passed_over))
    }

    /// The same, without making anything: for who only looks. `None` where nothing was ever kept.
    ///
    /// # Errors
    ///
    /// [`HomeError::Named`] when the directory that was named is not there.
    pub fn look(named: Option<&Path>) -> Result<Vec<PathBuf>, HomeError> {
        let mut there = Vec::new();
        for candidate in candidates(named) {
            if candidate.path.is_dir() {
                there.push(candidate.path);
            } else if named.is_some() {
                return Err(HomeError::Named {
                    path: candidate.path,
                    why: "there is no such directory".into(),
                });
            }
            if candidate.named {
                break;
            }
        }
        Ok(there)
    }
}

fn candidates(named: Option<&Path>) -> Vec<Candidate> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut found = Vec::new();
    let mut add = |path: PathBuf, from, volatile, named| {
        found.push(Candidate { path, from, volatile, named });
    };
    if let Some(path) = named {
        // As everywhere on a command line: from where the caller is.
        add(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), "--dir", false, true);
    }
    if let Some(path) = set(STATE_ENV) {
        add(path, STATE_ENV, false, true);
    }
    if let Some(paths) = set("STATE_DIRECTORY") {
        // systemd gives several, with colons between them.
        let first = paths.to_string_lossy().split(':').next().map(PathBuf::from);
        add(first.unwrap_or(paths), "STATE_DIRECTORY", false, false);
    }
    let uid = effective_uid();
    if uid == 0 {
        add("/var/lib/epilogue".into(), "the place for root", false, false);
    }
    let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let home = set("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".local/state"));
    if let Some(path) = state.or(home) {
        add(path.join("epilogue"), "the user's state directory", false, false);
    }
    if let Some(path) = set("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()) {
        add(path.join("epilogue"), "XDG_RUNTIME_DIR", true, false);
    }
    add(format!("/dev/shm/epilogue-{uid}").into(), "shared memory", true, false);
    add(format!("/tmp/epilogue-{uid}").into(), "the temporary directory", true, false);
    found
}

/// Tried by doing, not by asking: a read-only file system answers questions as any other.
fn usable(path: &Path) -> Result<(), String> {
    make(path)?;
    trusted(path)?;
    // Another container may have the same pid, and the same directory.
    let probe = path.join(format!(".probe-{}", crate::run::unique()));
    let tried = File::create_new(&probe).and_then(|file| Ok(file.try_lock()?));
    let removed = fs::remove_file(&probe);
    tried.and(removed).map_err(|error| error.to_string())
}

fn make(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("it is not an absolute path".into());
    }
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// What others could write is not ours: a journal is a program.
pub(crate) fn trusted(path: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(path).map_err(|error: io::Error| error.to_string())?;
    let me = effective_uid();
    if !found.is_dir() {
        return Err("it is not a directory".into());
    }
    if found.uid() != me {
        return Err(format!("it belongs to uid {}, and this is uid {me}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!("others can write to it (mode {:o})", found.mode() & 0o777));
    }
    // A parent that others can write to could put another directory in its place, unless it is sticky.
    if let Some(parent) = path.parent().and_then(|parent| fs::metadata(parent).ok()) {
        // Its owner may rename what is in it, sticky or not.
        if parent.uid() != me && parent.uid() != 0 {
            return Err(format!("its parent belongs to uid {}", parent.uid()));
        }
        let sticky = parent.mode() & 0o1000 != 0;
        if parent.mode() & 0o022 != 0 && !sticky {
            return Err(format!("others can write to its parent (mode {:o})", parent.mode() & 0o7777));
        }
    }
    Ok(())
}
