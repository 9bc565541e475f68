//! A journal in a file: made, opened, registered in, amended.

mod disarm;
mod payment;
mod whose;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::commit::GroupCommit;
use crate::error::JournalError;
use crate::header::{Meta, NewMeta, Tier};
use crate::layout::{Geometry, control};
use crate::log::{Log, LogError, New, Placed};
use crate::medium::{FileMedium, Medium, Positioned};
use crate::os;
use crate::scan::{Entry, Scan};
use crate::slot::{BODY_MAX, FLAG_POWER, Kind, Seed, slots_for};
use crate::word::{Phase, State, StateWord};

/// A record of what is owed, in a file that outlives the process.
///
/// Any number of threads and processes may write to it at once, all on one machine. Every method that
/// returns `Ok` has done its work for every one of them, whatever happens to this process next.
pub struct Journal {
    path: PathBuf,
    meta: Meta,
    log: Log<FileMedium>,
    commit: GroupCommit,
    /// This opening has seen to it that the file survives a power cut.
    powered: AtomicBool,
}

/// A process, as it cannot be mistaken for a later one with the same pid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessId {
    /// Its pid, in the journal's PID namespace; 0 for none.
    pub pid: u32,
    /// When it started, in clock ticks since boot; 0 where that was not yet known.
    pub start: u64,
}

/// How the owner of a journal ended, for cleanups that run on failure only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Nobody knows.
    Unknown,
    /// With this code.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
}

/// What is to be registered.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The scope that owes it: 1 is that of the whole run, others are from [`Journal::new_scope`], or
    /// numbers of the owner's own that no other of its scopes has, of 2⁴⁰ and more.
    pub scope: u64,
    /// Now, in milliseconds since 1970. A journal does not read clocks.
    pub time_ms: u64,
    /// What is owed, at most [`BODY_MAX`] bytes.
    pub body: &'a [u8],
    /// How far the promise reaches; not farther than that of the journal.
    pub tier: Tier,
}

/// A registration: what its owner disarms it with.
#[derive(Clone, Copy, Debug)]
pub struct Registered {
    placed: Placed,
    power: bool,
    /// Its state word as it was written: a disarm need not work it out again.
    live: u64,
}

impl Registered {
    /// The id of the record.
    pub fn id(&self) -> u64 {
        self.placed.lsn
    }
}

/// What came of a disarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disarm {
    /// It will not run.
    Disarmed,
    /// It was disarmed, or dropped, before.
    Already,
    /// It is being run, was tried, or is done: the caller now knows that it ran.
    TooLate(State),
}

/// What came of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// It ran.
    Done,
    /// It failed, and is still owed.
    Failed,
    /// It is kept for an operator.
    Parked,
}

impl Paid {
    /// The state of a record after this.
    pub fn state(self) -> State {
        match self {
            Paid::Done => State::Done,
            Paid::Failed => State::Failed,
            Paid::Parked => State::Parked,
        }
    }
}

/// What a disarm that comes after this state is told.
pub(crate) fn settled(state: State) -> Disarm {
    match state {
        State::Running | State::Failed | State::Parked | State::Done => Disarm::TooLate(state),
        _ => Disarm::Already,
    }
}

/// The right to pay a journal: valid until somebody else takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    /// The generation of this number, for stores that give them out.
    pub fn of(number: u64) -> Generation {
        Generation(number)
    }

    /// Its number: a fence for what the cleanups touch. It only grows.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl Journal {
    /// Makes a journal, for this user alone. Nothing may be at `path`.
    ///
    /// With `mapping` off it is read and written at positions, as on a file system where a mapping is
    /// not safe; there, that is done anyhow.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`]. Then nothing is left at `path`.
    pub fn create(path: &Path, new: NewMeta, mapping: bool) -> Result<Journal, JournalError> {
        let io = |doing| move |source| JournalError::Io { path: path.to_owned(), doing, source };
        let file = os::create_private(path).map_err(io("creating it"))?;
        Journal::fill(path, file, new, mapping).inspect_err(|_| {
            // Half a journal is none; what cannot be removed is not read as one either.
            let _ = std::fs::remove_file(path);
        })
    }

    fn fill(path: &Path, file: File, new: NewMeta, mapping: bool) -> Result<Journal, JournalError> {
        let io = |doing| move |source| JournalError::Io { path: path.to_owned(), doing, source };
        let words_max = Geometry::STANDARD.words(Geometry::STANDARD.segments_max);
        let medium = FileMedium::choose(file, words_max, mapping).map_err(io("mapping it"))?;
        let meta = Meta::new(new, Geometry::STANDARD, medium.is_mapped()).map_err(io("numbering it"))?;
        medium.grow(Geometry::STANDARD.words(0)).map_err(io("making room"))?;
        meta.write(&medium).map_err(io("writing its header"))?;
        let journal = Journal::over(path, meta, medium);
        journal.log.format().map_err(|error| journal.failed("making room", error))?;
        journal.medium().store(control::SCOPES, 1).map_err(io("writing to it"))?;
        Ok(journal)
    }

    /// Before the first promise that is to survive a power cut: the file itself must, and its places.
    #[cold]
    fn power_up(&self) -> Result<(), JournalError> {
        if self.meta.tier != Tier::Power {
            return Err(self.io("promising more than it can", io::ErrorKind::Unsupported.into()));
        }
        let write = self.medium().store(control::POWER, 1);
        write.map_err(|source| self.io("writing to it", source))?;
        self.medium().sync().map_err(|source| self.io("flushing it", source))?;
        if let Some(dir) = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            // The run's directory lies in another, which is new as well, perhaps.
            for dir in std::iter::once(dir).chain(dir.parent()) {
                let flushed = File::open(dir).and_then(|dir| dir.sync_all());
                flushed.map_err(|source| self.io("flushing its directory", source))?;
            }
        }
        self.powered.store(true, Ordering::Release);
        Ok(())
    }

    /// Opens a journal that is there.
    ///
    /// # Errors
    ///
    /// [`JournalError::NotTrusted`] where somebody else could have written it,
    /// [`JournalError::NotAJournal`] where it is none, [`JournalError::Io`]. No content makes it panic.
    pub fn open(path: &Path) -> Result<Journal, JournalError> {
        let io = |doing| move |source| JournalError::Io { path: path.to_owned(), doing, source };
        let file = os::open_private(path).map_err(io("opening it"))?;
        if let Some(why) = os::distrust(&file).map_err(io("looking at it"))? {
            return Err(JournalError::NotTrusted { path: path.to_owned(), why });
        }
        let not = |why| JournalError::NotAJournal { path: path.to_owned(), why };
        let reading = Positioned::new(file);
        let meta = Meta::read(&reading).map_err(io("reading it"))?.map_err(not)?;
        if reading.words().map_err(io("looking at it"))? < meta.geometry().words(0)
            || meta.geometry() != Geometry::STANDARD
        {
            return Err(not("its sizes are not those of this version".into()));
        }
        let words_max = Geometry::STANDARD.words(Geometry::STANDARD.segments_max);
        let medium =
            FileMedium::join(reading.into_file(), words_max, meta.mapped).map_err(io("mapping it"))?;
        Ok(Journal::over(path, meta, medium))
    }

    pub(crate) fn over(path: &Path, meta: Meta, medium: FileMedium) -> Journal {
        let log = Log::new(medium, Seed::new(meta.salt()), meta.geometry());
        let powered = AtomicBool::new(false);
        Journal { path: path.to_owned(), meta, log, commit: GroupCommit::default(), powered }
    }

    /// Gives the file its name, once it is complete: who finds it by that name finds a whole journal.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`]; then it keeps the name that it had.
    pub fn rename(&mut self, path: &Path) -> Result<(), JournalError> {
        std::fs::rename(&self.path, path).map_err(|source| self.io("naming it", source))?;
        path.clone_into(&mut self.path);
        Ok(())
    }

    /// Says that no power was cut since it was written, so that the part beyond its end need not be read.
    pub fn trust_tail(&self) {
        self.log.trust_tail();
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Whether it is mapped: a registration is then a few stores, else system calls.
    pub fn is_mapped(&self) -> bool {
        self.medium().is_mapped()
    }

    /// Whether what it holds is gone when the machine goes down: it is in memory only.
    pub fn is_volatile(&self) -> bool {
        os::is_volatile(self.medium().file()).unwrap_or(true)
    }

    /// The file system that kept it from being mapped.
    pub fn unmapped_because(&self) -> Option<&'static str> {
        os::unsafe_file_system(self.medium().file())
    }

    /// Puts on record what is owed. From then on it runs at least once, unless it is disarmed.
    ///
    /// # Errors
    ///
    /// Nothing was registered, and nothing will run: [`JournalError::TooLate`] when the run is being
    /// paid, [`JournalError::TooLong`], [`JournalError::Full`], [`JournalError::NotKept`] when the
    /// device refused a record of [`Tier::Power`], [`JournalError::Io`].
    ///
    /// # Cost
    ///
    /// With [`Tier::Process`] a few dozen nanoseconds. With [`Tier::Power`] one flush of the device,
    /// shared by everyone who waits for one; it blocks the thread.
    #[inline]
    pub fn register(&self, record: &Record<'_>) -> Result<Registered, JournalError> {
        let power = record.tier == Tier::Power;
        let new = New {
            kind: Kind::Action,
            flags: if power { FLAG_POWER } else { 0 },
            scope: record.scope,
            id: None,
            time_ms: record.time_ms,
            state: State::Live,
            body: record.body,
        };
        let placed = self.append(&new)?;
        let registered = Registered { placed, power, live: self.log.live_word(placed.lsn) };
        if power {
            self.keep(registered)?;
        }
        if self.phase_word()?.phase != Phase::Open {
            return self.withdraw(registered);
        }
        Ok(registered)
    }

    #[inline]
    fn append(&self, new: &New<'_>) -> Result<Placed, JournalError> {
        if new.body.len() > BODY_MAX {
            return Err(JournalError::TooLong { len: new.body.len() });
        }
        if new.flags & FLAG_POWER != 0 && !self.powered.load(Ordering::Acquire) {
            self.power_up()?;
        }
        let placed = self.log.append(new).map_err(|error| self.failed("writing to it", error))?;
        if self.log.take_crowded() {
            // What cannot be moved stays: the worst is a longer file.
            let _ = self.log.move_stragglers();
        }
        Ok(placed)
    }

    #[cold]
    fn keep(&self, registered: Registered) -> Result<(), JournalError> {
        let Err(source) = self.commit.wait(|| self.medium().sync()) else { return Ok(()) };
        // The pages that were refused count as written now: a second flush would lie. What comes next
        // goes to other pages, and so does what lay on these.
        let _ = self.log.turn_page();
        self.rescue(self.log.geometry().segment_of(registered.placed.lsn));
        let _ = self.disarm_word(registered.placed, registered.live);
        Err(JournalError::NotKept { path: self.path.clone(), source })
    }

    /// Copies what is owed in a segment elsewhere, and flushes. What fails stays where it is: it was on
    /// the device before.
    fn rescue(&self, segment: u64) {
        let (Ok(amends), Ok(scan)) = (self.log.amends(), self.log.scan()) else { return };
        for entry in scan.open().filter(|entry| self.log.geometry().segment_of(entry.lsn) == segment) {
            if self.log.relocate(entry, amends).is_err() {
                return;
            }
        }
    }

    #[cold]
    fn withdraw(&self, registered: Registered) -> Result<Registered, JournalError> {
        match self.disarm_word(registered.placed, registered.live)? {
            // It is being paid already: the promise is kept, only sooner.
            Disarm::TooLate(_) => Ok(registered),
            Disarm::Disarmed | Disarm::Already => Err(JournalError::TooLate),
        }
    }

    /// Adds what became known of a record after it was registered; the newest counts. The body is
    /// replaced as a whole, beside what was registered.
    ///
    /// # Errors
    ///
    /// As [`register`](Journal::register); then what was on record stays as it was.
    pub fn amend(&self, id: u64, time_ms: u64, body: &[u8]) -> Result<(), JournalError> {
        if body.len() > BODY_MAX {
            return Err(JournalError::TooLong { len: body.len() });
        }
        let power = self.powered.load(Ordering::Acquire);
        let slots = slots_for(body.len());
        let place = self.log.reserve(slots).map_err(|error| self.failed("writing to it", error))?;
        // Under the lock of those who move records: one that is moved meanwhile would lose it.
        let amended = self.medium().exclusively(|| {
            self.log.settle_copy().map_err(|error| self.failed("writing to it", error))?;
            let placed = self.mark_amended(id)?;
            self.log.count_amend().map_err(|source| self.io("writing to it", source))?;
            let new = New {
                kind: Kind::Amendment,
                flags: if power { FLAG_POWER } else { 0 },
                // The position of what it amends: it is over when that is.
                scope: placed.lsn,
                id: Some(id),
                time_ms,
                state: State::Live,
                body,
            };
            self.log.fill(place, &new).map_err(|error| self.failed("writing to it", error))
        });
        let amended = amended.map_err(|source| self.io("locking it", source))?;
        if let Err(error) = amended {
            // What was reserved must not hold its segment.
            let _ = self.log.skip(place, slots);
            return Err(error);
        }
        if power {
            self.commit
                .wait(|| self.medium().sync())
                .map_err(|source| JournalError::NotKept { path: self.path.clone(), source })?;
        }
        Ok(())
    }

    /// Says of a record that is owed that it has an amendment, so that it is not moved without.
    fn mark_amended(&self, id: u64) -> Result<Placed, JournalError> {
        let mut placed = self.committed(id)?;
        loop {
            let at = match placed {
                Some(at) => at,
                None => self.open_entry(id)?.placed(),
            };
            let Some((state, word)) = self.state(at)? else {
                placed = None;
                continue;
            };
            match state.state {
                State::Live => {
                    if self.change(at, word, StateWord::new(State::Amended))? {
                        return Ok(at);
                    }
                }
                state if state.is_open() => return Ok(at),
                State::Moved => placed = None,
                _ => return Err(JournalError::NoSuchRecord { id }),
            }
        }
    }

    /// A number for a scope that no other of this journal has.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn new_scope(&self) -> Result<u64, JournalError> {
        let before = self.medium().add(control::SCOPES, 1).map_err(|e| self.io("writing to it", e))?;
        Ok(before + 1)
    }

    /// Everything that is in it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn scan(&self) -> Result<Scan, JournalError> {
        self.log.scan().map_err(|source| self.io("reading it", source))
    }

    /// One record.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRecord`], [`JournalError::Io`].
    pub fn entry(&self, id: u64) -> Result<Entry, JournalError> {
        if let Some(entry) = self.log.read_live(id).map_err(|source| self.io("reading it", source))? {
            return Ok(entry);
        }
        self.scan()?.find(id).cloned().ok_or(JournalError::NoSuchRecord { id })
    }

    /// What has become of a record, for who has registered it: without reading the rest, unless it was moved.
    ///
    /// # Errors
    ///
    /// As [`entry`](Journal::entry).
    pub fn state_of(&self, registered: Registered) -> Result<State, JournalError> {
        match self.state(registered.placed)? {
            Some((word, _)) if word.state != State::Moved => Ok(word.state),
            _ => self.entry(registered.id()).map(|entry| entry.state),
        }
    }

    fn open_entry(&self, id: u64) -> Result<Entry, JournalError> {
        let entry = self.entry(id)?;
        if entry.state.is_open() { Ok(entry) } else { Err(JournalError::NoSuchRecord { id }) }
    }

    /// Flushes everything to the device.
    ///
    /// # Errors
    ///
    /// [`JournalError::NotKept`].
    pub fn sync(&self) -> Result<(), JournalError> {
        self.commit
            .wait(|| self.medium().sync())
            .map_err(|source| JournalError::NotKept { path: self.path.clone(), source })
    }

    fn committed(&self, lsn: u64) -> Result<Option<Placed>, JournalError> {
        self.log.committed(lsn).map_err(|source| self.io("reading it", source))
    }

    fn state(&self, placed: Placed) -> Result<Option<(StateWord, u64)>, JournalError> {
        self.log.state(placed).map_err(|source| self.io("reading it", source))
    }

    fn change(&self, placed: Placed, from: u64, to: StateWord) -> Result<bool, JournalError> {
        let changed = self.log.change(placed, from, to);
        Ok(changed.map_err(|source| self.io("writing to it", source))?.is_ok())
    }

    fn medium(&self) -> &FileMedium {
        self.log.medium()
    }

    fn io(&self, doing: &'static str, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), doing, source }
    }

    fn failed(&self, doing: &'static str, error: LogError) -> JournalError {
        match error {
            LogError::Io(source) => self.io(doing, source),
            LogError::Full => JournalError::Full { path: self.path.clone(), limit_mib: 256 },
        }
    }
}

#[cfg(all(test, not(epilogue_loom)))]
impl Journal {
    pub(crate) fn format_for_test(&self) {
        self.log.format().unwrap();
        if self.meta.tier == Tier::Power {
            self.power_up().unwrap();
        }
    }

    /// Moves the oldest record that is owed, as a crowded journal does.
    pub(crate) fn move_for_test(&self) -> Result<(), JournalError> {
        let amends = self.log.amends().map_err(|source| self.io("reading it", source))?;
        let scan = self.scan()?;
        let oldest = scan.entries.iter().find(|entry| entry.state.is_untouched());
        let moved = oldest.map_or(Ok(false), |entry| self.log.relocate(entry, amends));
        moved.map(drop).map_err(|error| self.failed("moving", error))
    }

    /// The same, with something that happens between the reading of the record and its move.
    pub(crate) fn move_after_for_test(&self, meanwhile: impl FnOnce()) -> bool {
        let amends = self.log.amends().unwrap();
        let entry = self.scan().unwrap().open().next().cloned().unwrap();
        meanwhile();
        self.log.relocate(&entry, amends).unwrap()
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).finish_non_exhaustive()
    }
}
