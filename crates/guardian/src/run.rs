//! A run: one directory, one journal, one owner whose death ends it.
//!
//! ```text
//! <home>/<uuid>/journal     what is owed
//!              /lock        held by who pays
//!              /alive       held by the owner, its wrapper or its guardian while they live
//!              /run.json    how it is to be paid
//!              /log         what was tried, one line of JSON each
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use epilogue_journal::{Journal, JournalError, Meta, NewMeta, Phase, ProcessId, Tier};
use serde::{Deserialize, Serialize};

use crate::home::{self, Home};
use crate::identity::{self, Alive};
use crate::lock::{is_locked, is_locked_besides, share};

/// A run on disk.
#[derive(Debug)]
pub struct Run {
    /// Its directory.
    pub dir: PathBuf,
    /// What it owes.
    pub journal: Arc<Journal>,
    /// How it is to be paid.
    pub settings: Settings,
    /// What whoever has made it should say: so much is kept that soon no run can begin.
    pub warning: Option<String>,
    /// Held while this process counts as alive to other PID namespaces.
    alive: Option<File>,
}

/// How a run is to be paid, when its owner cannot say so any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// What the guardian does about the owner when only the wrapper dies.
    pub on_wrapper_death: OnWrapperDeath,
    /// The environment at the start of the run, hashed: who came later with another is not given this one.
    pub environment: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { on_wrapper_death: OnWrapperDeath::Term, environment: None }
    }
}

/// What the guardian does about the owner when only the wrapper dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnWrapperDeath {
    /// Asks it to end, kills it after ten seconds, then pays.
    #[default]
    Term,
    /// Waits until it has ended by itself.
    Wait,
}

/// What a new run is.
#[derive(Clone, Debug, Default)]
pub struct NewRun {
    /// The name in lists.
    pub name: String,
    /// The program that knows its actions.
    pub program: Option<PathBuf>,
    /// The command that it is for.
    pub command: Vec<String>,
    /// How far its promises reach.
    pub tier: Tier,
    /// How it is to be paid.
    pub settings: Option<Settings>,
}

/// Why a run could not be made or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The directory could not be made or read.
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{}: not trusted: {why}", path.display())]
    NotTrusted {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The directory of all runs has reached its size limit.
    #[error("{}: holds {mib} MiB, and {limit} MiB is the limit; see 'epilogue pending list'", path.display())]
    Full {
        /// The directory of all runs.
        path: PathBuf,
        /// Its size.
        mib: u64,
        /// The limit.
        limit: u64,
    },
    /// The journal in it could not be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Run {
    /// Makes a run whose owner is this process.
    ///
    /// # Errors
    ///
    /// [`RunError`]; then nothing is left of it.
    pub fn create(home: &Home, new: NewRun) -> Result<Run, RunError> {
        let mib = home.mib();
        if mib >= home::MAX_MIB {
            return Err(RunError::Full { path: home.path.clone(), mib, limit: home::MAX_MIB });
        }
        let dir = home.path.join(unique());
        let io = |doing| move |source| RunError::Io { path: home.path.clone(), doing, source };
        DirBuilder::new().mode(0o700).create(&dir).map_err(io("making a directory for the run"))?;
        let run = Run::fill(&dir, new).inspect_err(|_| {
            let _ = fs::remove_dir_all(&dir);
        })?;
        Ok(Run { warning: home.warning_at(mib), ..run })
    }

    fn fill(dir: &Path, new: NewRun) -> Result<Run, RunError> {
        let io = |doing| move |source| RunError::Io { path: dir.to_owned(), doing, source };
        let settings = new.settings.unwrap_or_default();
        let json = serde_json::to_vec(&settings).map_err(io::Error::from).map_err(io("writing run.json"))?;
        private(&dir.join("run.json"))
            .and_then(|mut file| file.write_all(&json))
            .map_err(io("writing run.json"))?;
        private(&dir.join("lock")).map_err(io("making the lock"))?;
        // Locked before it is there: who sweeps must not find it free.
        let alive = private(&dir.join("alive.new")).map_err(io("making the lock"))?;
        alive.try_lock_shared().map_err(|error| io("locking it")(error.into()))?;
        fs::rename(dir.join("alive.new"), dir.join("alive")).map_err(io("making the lock"))?;
        let meta = NewMeta {
            tier: new.tier,
            created_ms: now_ms(),
            boot_id: identity::boot_id(),
            pid_namespace: identity::pid_namespace(),
            uid: crate::os::effective_uid(),
            name: new.name,
            program: new.program,
            command: new.command,
        };
        // The journal comes last, and whole: a directory without one is an attempt that did not succeed.
        let mut journal = Journal::create(&dir.join("journal.new"), meta, true)?;
        journal.set_owner(identity::this_process())?;
        journal.set_owner_holds_lock(true)?;
        journal.rename(&dir.join("journal"))?;
        journal.trust_tail();
        Ok(Run {
            dir: dir.to_owned(),
            journal: Arc::new(journal),
            settings,
            warning: None,
            alive: Some(alive),
        })
    }

    /// Opens a run that is there.
    ///
    /// # Errors
    ///
    /// [`RunError`].
    pub fn open(dir: &Path) -> Result<Run, RunError> {
        home::trusted(dir).map_err(|why| RunError::NotTrusted { path: dir.to_owned(), why })?;
        let journal = Journal::open(&dir.join("journal"))?;
        if journal.meta().boot_id == identity::boot_id() {
            journal.trust_tail();
        }
        let settings = fs::read(dir.join("run.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Ok(Run { dir: dir.to_owned(), journal: Arc::new(journal), settings, warning: None, alive: None })
    }

    /// Counts as alive from now on, for other PID namespaces.
    pub fn stay_known(&mut self) {
        if let Ok(file) = OpenOptions::new().read(true).write(true).open(self.dir.join("alive")) {
            share(&file);
            self.alive = Some(file);
        }
    }

    /// What says to other PID namespaces that this process lives, for a child that is to say it too.
    pub(crate) fn alive_lock(&self) -> Option<&File> {
        self.alive.as_ref()
    }

    /// All runs in a directory, oldest first. What cannot be opened comes with the reason.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn all(home: &Path) -> io::Result<Vec<(PathBuf, Result<Run, RunError>)>> {
        let mut dirs: Vec<PathBuf> = fs::read_dir(home)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("journal").symlink_metadata().is_ok())
            .collect();
        dirs.sort_by_key(|dir| fs::metadata(dir.join("journal")).and_then(|found| found.created()).ok());
        Ok(dirs.into_iter().map(|dir| (dir.clone(), Run::open(&dir))).collect())
    }

    /// What its journal says of it.
    pub fn meta(&self) -> &Meta {
        self.journal.meta()
    }

    /// Its name in lists: the first eight characters of its id.
    pub fn short(&self) -> &str {
        let uuid = &self.meta().uuid;
        uuid.get(..8).unwrap_or(uuid)
    }

    /// Whether its owner lives, or the wrapper that waits for the owner.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub fn alive(&self) -> Result<Alive, JournalError> {
        let owner = self.process_alive(self.journal.owner()?);
        let wrapper = self.process_alive(self.journal.wrapper()?);
        Ok(match (owner, wrapper) {
            (Alive::Yes, _) | (_, Alive::Yes) => Alive::Yes,
            (Alive::Elsewhere, _) | (_, Alive::Elsewhere) => self.alive_elsewhere(),
            _ => Alive::No,
        })
    }

    /// Whether one of its processes lives.
    pub fn process_alive(&self, process: ProcessId) -> Alive {
        identity::alive(self.meta(), process)
    }

    /// A lock on a file is seen across namespaces, where a pid means something else. Held, somebody lives
    /// who would know; free, it says something of an owner that had it.
    fn alive_elsewhere(&self) -> Alive {
        let locked = match &self.alive {
            Some(own) => is_locked_besides(own),
            None => is_locked(&self.dir.join("alive")),
        };
        match locked {
            Some(true) => Alive::Yes,
            Some(false) if self.journal.owner_holds_lock().is_ok_and(|holds| holds) => Alive::No,
            _ => Alive::Elsewhere,
        }
    }

    /// Whether it was begun since the machine came up.
    pub fn is_of_this_boot(&self) -> bool {
        self.meta().boot_id == identity::boot_id()
    }

    /// Whether somebody is paying it at this moment.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub fn is_being_paid(&self) -> Result<bool, JournalError> {
        let begun = self.journal.phase()? == Phase::Paying;
        // A child that a dead payer has forked may hold the lock; of another namespace nothing else tells.
        Ok(begun && !self.is_payer_dead()? && is_locked(&self.dir.join("lock")).unwrap_or(true))
    }

    /// Whether the last payer is known to be gone: who is of another PID namespace, or has not said of which,
    /// may live, and its lock tells.
    pub(crate) fn is_payer_dead(&self) -> Result<bool, JournalError> {
        let generation = self.journal.generation()?;
        let namespace = self.journal.payer_namespace()?;
        let payer = self.journal.payer()?;
        // Read again: another may have taken over in between, and half of each was read.
        let same = self.journal.payer_namespace()? == namespace && self.journal.generation()? == generation;
        let here = namespace == identity::pid_namespace() && same;
        // The boot of the run says nothing of a payer that came later: no lock outlives a boot.
        Ok(here && identity::alive_here(payer) == Alive::No)
    }

    /// Removes it. Nothing in it may be owed.
    ///
    /// # Errors
    ///
    /// When something of it cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        crate::environment::forget(&self.meta().uuid);
        // The journal first: what is left without one is swept by whoever recovers next.
        fs::remove_file(self.dir.join("journal"))?;
        fs::remove_dir_all(&self.dir)
    }
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// A name that nobody has and nobody guesses.
pub(crate) fn unique() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{:012x}-{:x}-{random:016x}", nanos / 1_000_000, std::process::id())
}

#[cfg(test)]
pub(crate) fn tests_meta() -> Meta {
    let dir = std::env::temp_dir().join(format!("epilogue-guardian-meta-{}", unique()));
    fs::create_dir_all(&dir).unwrap();
    let new = NewMeta {
        boot_id: identity::boot_id(),
        pid_namespace: identity::pid_namespace(),
        ..NewMeta::default()
    };
    let meta = Journal::create(&dir.join("journal"), new, true).unwrap().meta().clone();
    fs::remove_dir_all(&dir).unwrap();
    meta
}
