//! The log: slots are reserved by one atomic addition, written, and made known by one store.
//!
//! There is one order for all threads and all processes that write: the order of reservation. A record
//! that was registered before another began is below it, whoever wrote them, so newest first is right
//! across threads; reserving slots by the batch would be cheaper for two threads, and lose that.

mod place;
mod relocate;

use std::io;

use crate::layout::{Geometry, SLOT_WORDS, control};
use crate::medium::Medium;
use crate::slot::{self, Head, Kind, Seed, Slot};
use crate::sync::AtomicU64;
use crate::word::{State, StateWord};

/// Why the log did not take a record.
#[derive(Debug)]
pub(crate) enum LogError {
    Io(io::Error),
    /// Every place is taken by something that is still owed.
    Full,
}

impl LogError {
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            LogError::Io(error) => error,
            LogError::Full => io::ErrorKind::StorageFull.into(),
        }
    }
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> LogError {
        LogError::Io(error)
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) lsn: u64,
    /// The first word of its head.
    pub(crate) at: usize,
}

/// A record to be written.
pub(crate) struct New<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) scope: u64,
    /// `None`: the LSN that it gets.
    pub(crate) id: Option<u64>,
    pub(crate) time_ms: u64,
    pub(crate) state: State,
    pub(crate) body: &'a [u8],
}

pub(crate) struct Log<M> {
    medium: M,
    seed: Seed,
    geometry: Geometry,
    /// The last segment that was looked up, and its place: (segment + 1) << 16 | place.
    looked_up: AtomicU64,
    /// Where the search for a segment to use again begins.
    cursor: AtomicU64,
    /// Where the search for a segment that could be emptied goes on.
    sweep: AtomicU64,
    /// Not 0: a segment was put into a long file.
    crowded: AtomicU64,
    /// Where records are that this process has moved.
    moved: std::sync::Mutex<std::collections::HashMap<u64, Placed>>,
    /// Not 0: nothing lies beyond the tail, as no power was cut since it was written.
    trusts_tail: AtomicU64,
}

impl<M: Medium> Log<M> {
    pub(crate) fn new(medium: M, seed: Seed, geometry: Geometry) -> Log<M> {
        Log {
            medium,
            seed,
            geometry,
            looked_up: AtomicU64::new(0),
            cursor: AtomicU64::new(0),
            sweep: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
            moved: std::sync::Mutex::default(),
            trusts_tail: AtomicU64::new(0),
        }
    }

    /// Whether a place has to be on the device before it is used: some record was promised to survive a
    /// power cut.
    fn synced_places(&self) -> io::Result<bool> {
        Ok(self.medium.load(control::POWER)? != 0)
    }

    pub(crate) fn trust_tail(&self) {
        self.trusts_tail.store(1, crate::sync::Ordering::Relaxed);
    }

    /// The position beyond which nothing has to be read.
    pub(crate) fn end(&self) -> io::Result<u64> {
        match self.trusts_tail.load(crate::sync::Ordering::Relaxed) {
            0 => Ok(u64::MAX),
            _ => self.medium.load(control::TAIL),
        }
    }

    fn remember(&self, id: u64, placed: Placed) {
        self.moved.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id, placed);
    }

    /// Where a record is that this process has moved; it is asked once.
    pub(crate) fn forwarded(&self, id: u64) -> Option<Placed> {
        self.moved.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&id)
    }

    /// A record is over that this process may have moved.
    pub(crate) fn forget(&self, id: u64) {
        let mut moved = self.moved.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !moved.is_empty() {
            moved.remove(&id);
        }
    }

    /// Makes an empty file a log. Position 0 is never given out: an id is never 0.
    pub(crate) fn format(&self) -> Result<(), LogError> {
        self.medium.grow(self.geometry.words(0))?;
        self.medium.store(control::TAIL, 1)?;
        self.write_skip(0)
    }

    pub(crate) fn medium(&self) -> &M {
        &self.medium
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Writes a record. When it returns, every process sees it, and will after this one was killed.
    #[inline]
    pub(crate) fn append(&self, new: &New<'_>) -> Result<Placed, LogError> {
        let placed = self.reserve(slot::slots_for(new.body.len()))?;
        self.fill(placed, new)?;
        Ok(placed)
    }

    /// Slots of one segment, in a row, that nobody else writes.
    #[inline]
    pub(crate) fn reserve(&self, slots: u64) -> Result<Placed, LogError> {
        loop {
            let lsn = self.medium.add(control::TAIL, slots)?;
            let end = lsn.wrapping_add(slots);
            if end < lsn || end > self.geometry.positions() {
                return Err(self.give_back(lsn, end, LogError::Full));
            }
            let segment = self.geometry.segment_of(lsn);
            if segment == self.geometry.segment_of(end - 1) {
                match self.place_of(segment) {
                    Ok(place) => return Ok(Placed { lsn, at: self.word_of(place, lsn) }),
                    Err(error) => return Err(self.give_back(lsn, end, error)),
                }
            }
            // It would lie in two segments, which are used again apart. What is not used is said so.
            for unused in lsn..end {
                self.write_skip(unused).map_err(|error| self.give_back(unused, end, error))?;
            }
        }
    }

    /// Undoes a reservation, unless there is one after it already: slots that nobody will write hold
    /// their segment for as long as the journal lives.
    #[cold]
    fn give_back(&self, from: u64, end: u64, error: LogError) -> LogError {
        let _ = self.medium.exchange(control::TAIL, end, from);
        error
    }

    /// Writes a record to what was reserved for it. The head's commit word comes last.
    #[inline]
    pub(crate) fn fill(&self, placed: Placed, new: &New<'_>) -> Result<(), LogError> {
        for index in 0..slot::slots_for(new.body.len()) - 1 {
            let continued = slot::continuation(self.seed, placed.lsn, index, new.body);
            self.write_slot(placed.at + (1 + index as usize) * SLOT_WORDS, &continued, SLOT_WORDS)?;
        }
        let id = new.id.unwrap_or(placed.lsn);
        let (kind, flags, len, lsn) = (new.kind, new.flags, new.body.len(), placed.lsn);
        let head = Head { kind, flags, len, lsn, scope: new.scope, id, time_ms: new.time_ms };
        let (mut slot, end) = slot::head(self.seed, &head, new.body);
        slot[1] = StateWord::new(new.state).encode(self.seed, placed.lsn);
        self.write_slot(placed.at, &slot, end)?;
        Ok(())
    }

    /// What lay here before is taken out first; the position before the rest, so that a slot that is
    /// being written is never taken for one that is over.
    #[inline]
    fn write_slot(&self, at: usize, slot: &Slot, end: usize) -> io::Result<()> {
        self.medium.store(at, 0)?;
        self.medium.store(at + 2, slot[2])?;
        self.medium.store(at + 1, slot[1])?;
        self.medium.write(at + 3, &slot[3..end])?;
        self.medium.publish(at, slot[0])
    }

    /// Says of slots that were reserved that they are not used.
    pub(crate) fn skip(&self, placed: Placed, slots: u64) -> Result<(), LogError> {
        (placed.lsn..placed.lsn + slots).try_for_each(|lsn| self.write_skip(lsn))
    }

    fn write_skip(&self, lsn: u64) -> Result<(), LogError> {
        let place = self.place_of(self.geometry.segment_of(lsn))?;
        self.write_slot(self.word_of(place, lsn), &slot::skipped(self.seed, lsn), SLOT_WORDS)?;
        Ok(())
    }

    /// Gives up the rest of the current segment: what comes next lies on pages of its own.
    pub(crate) fn turn_page(&self) -> io::Result<()> {
        loop {
            let tail = self.medium.load(control::TAIL)?;
            let next = (self.geometry.segment_of(tail) + 1) << self.geometry.slots_log2;
            if self.medium.exchange(control::TAIL, tail, next)?.is_ok() {
                return Ok(());
            }
        }
    }

    /// The state of a record at this place, as it stands and as it is written; `None` when another
    /// record lies there by now, which only happens to one that was settled.
    #[inline]
    pub(crate) fn state(&self, placed: Placed) -> io::Result<Option<(StateWord, u64)>> {
        let word = self.medium.load(placed.at + 1)?;
        match StateWord::decode(word, self.seed, placed.lsn) {
            Some(state) => Ok(Some((state, word))),
            None => self.torn_state(placed, word),
        }
    }

    /// A word that is not whole, of a record that is, was torn by a power cut while it was first written
    /// or changed. Nobody was told of that change, so the record is as it was registered.
    #[cold]
    fn torn_state(&self, placed: Placed, word: u64) -> io::Result<Option<(StateWord, u64)>> {
        let whole = slot::read_head(&self.slot(placed.at)?, self.seed, placed.lsn).is_some();
        Ok(whole.then_some((StateWord::new(State::Live), word)))
    }

    /// Changes a state word from what was read. `Err` has what is there instead.
    #[inline]
    pub(crate) fn change(
        &self,
        placed: Placed,
        from: u64,
        to: StateWord,
    ) -> io::Result<Result<(), Option<StateWord>>> {
        let new = to.encode(self.seed, placed.lsn);
        let changed = self.medium.exchange(placed.at + 1, from, new)?;
        Ok(changed.map_err(|found| StateWord::decode(found, self.seed, placed.lsn)))
    }

    /// The word that a record has which was just registered here.
    #[inline]
    pub(crate) fn live_word(&self, lsn: u64) -> u64 {
        StateWord::new(State::Live).encode(self.seed, lsn)
    }

    fn word_of(&self, place: u32, lsn: u64) -> usize {
        self.geometry.place(place) + self.geometry.slot_of(lsn) * SLOT_WORDS
    }

    fn slot(&self, at: usize) -> io::Result<Slot> {
        let mut slot = [0; SLOT_WORDS];
        self.medium.read(at, &mut slot)?;
        Ok(slot)
    }
}
