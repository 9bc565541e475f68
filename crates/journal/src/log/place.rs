//! Where segments lie. A segment is numbered for ever; its place in the file is used again once
//! nothing in it is owed, and nobody can still write to it.

use std::io;

use super::{Log, LogError};
use crate::layout::{DIRECTORY, DIRECTORY_LEN, SLOT_WORDS, control};
use crate::medium::Medium;
use crate::slot::{self, Kind};
use crate::sync::Ordering;
use crate::word::{State, StateWord, decode_entry, encode_entry};

/// With this many places, single old records are worth moving before the file is made longer.
const CROWDED: u32 = 16;

/// Places that are looked at for one that can be used again, before the file is made longer.
const TRIES: u32 = 4;

impl<M: Medium> Log<M> {
    /// The place of a segment, which is put into one if it has none.
    #[inline]
    pub(super) fn place_of(&self, segment: u64) -> Result<u32, LogError> {
        let looked_up = self.looked_up.load(Ordering::Acquire);
        if looked_up >> 16 == segment + 1 {
            // Masked to 16 bits.
            return Ok((looked_up & 0xffff) as u32);
        }
        self.look_up(segment)
    }

    /// The same for one who has the lock.
    pub(super) fn place_under_lock(&self, segment: u64) -> Result<u32, LogError> {
        match self.find(segment)? {
            Some(place) => Ok(place),
            None => self.install_under_lock(segment),
        }
    }

    #[cold]
    fn look_up(&self, segment: u64) -> Result<u32, LogError> {
        let place = match self.find(segment)? {
            Some(place) => place,
            None => self.install(segment)?,
        };
        self.looked_up.store((segment + 1) << 16 | u64::from(place), Ordering::Release);
        Ok(place)
    }

    /// The place of a segment, if it has one still.
    pub(crate) fn find(&self, segment: u64) -> io::Result<Option<u32>> {
        for place in 0..self.places()? {
            if self.segment_at(place)? == Some(segment) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Places there are. What the file says of itself is believed as far as the file reaches.
    pub(crate) fn places(&self) -> io::Result<u32> {
        let said = self.medium.load(control::SEGMENTS)?;
        let there =
            self.medium.words()?.saturating_sub(self.geometry.place(0)) / self.geometry.segment_words();
        let most = there.min(self.geometry.segments_max as usize).min(DIRECTORY_LEN);
        // At most the length of the directory.
        Ok(said.min(most as u64) as u32)
    }

    pub(crate) fn segment_at(&self, place: u32) -> io::Result<Option<u64>> {
        Ok(decode_entry(self.medium.load(DIRECTORY + place as usize)?, self.seed, place))
    }

    #[cold]
    fn install(&self, segment: u64) -> Result<u32, LogError> {
        self.medium.exclusively(|| {
            self.settle_copy()?;
            // Another writer may have been here first.
            self.place_under_lock(segment)
        })?
    }

    fn install_under_lock(&self, segment: u64) -> Result<u32, LogError> {
        let place = self.free_place(segment)?;
        if self.places()? >= CROWDED {
            self.crowded.store(1, Ordering::Relaxed);
        }
        let (entry, coded) = (DIRECTORY + place as usize, encode_entry(self.seed, place, segment));
        if self.synced_places()? {
            // What lies there must not come back by a power cut, nor be torn with what comes: there is a
            // moment, on the device, in which nothing lies there. The number of places is written again
            // with it: a flush that was refused may have lost it.
            self.medium.store(entry, 0)?;
            self.medium.store(control::SEGMENTS, u64::from(self.places()?))?;
            self.medium.sync()?;
            self.medium.store(entry, coded)?;
            if let Err(refused) = self.medium.sync() {
                self.medium.store(entry, 0)?;
                return Err(refused.into());
            }
        } else {
            self.medium.store(entry, coded)?;
        }
        Ok(place)
    }

    fn free_place(&self, segment: u64) -> Result<u32, LogError> {
        let places = self.places()?;
        for place in 0..places {
            if self.segment_at(place)?.is_none() {
                return Ok(place);
            }
        }
        let at_limit = places >= self.geometry.segments_max;
        if let Some(place) = self.spent_place(segment, places, if at_limit { places } else { TRIES })? {
            return Ok(place);
        }
        if at_limit {
            return Err(LogError::Full);
        }
        self.medium.grow(self.geometry.words(places + 1))?;
        self.medium.store(control::SEGMENTS, u64::from(places) + 1)?;
        Ok(places)
    }

    fn spent_place(&self, segment: u64, places: u32, tries: u32) -> io::Result<Option<u32>> {
        let first = self.cursor.load(Ordering::Relaxed);
        for step in 0..tries.min(places) {
            // A remainder of a u32.
            let place = ((first + u64::from(step)) % u64::from(places)) as u32;
            match self.segment_at(place)? {
                Some(old) if old < segment && self.is_spent(place, old)? => {
                    self.cursor.store(u64::from(place) + 1, Ordering::Relaxed);
                    return Ok(Some(place));
                }
                _ => {}
            }
        }
        self.cursor.store(first + u64::from(tries), Ordering::Relaxed);
        Ok(None)
    }

    /// Whether nothing in a segment is owed and nobody can write to it any more. A slot that was
    /// reserved and not written may belong to a writer that is stopped: it holds its segment.
    fn is_spent(&self, place: u32, segment: u64) -> io::Result<bool> {
        let first = segment << self.geometry.slots_log2;
        let start = self.geometry.place(place);
        for index in (0..self.geometry.slots()).rev() {
            // Below the number of slots of a segment.
            if !self.is_slot_spent(start + index as usize * SLOT_WORDS, first + index)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_slot_spent(&self, at: usize, lsn: u64) -> io::Result<bool> {
        // The position first: a writer clears the commit word before it writes that, so a commit word that
        // is read after a position of this life is of this life, or 0.
        let written = self.medium.load(at + 2)?;
        let commit = self.medium.load(at)?;
        let (state, scope) = (self.medium.load(at + 1)?, self.medium.load(at + 3)?);
        if commit == 0 || written != lsn {
            return Ok(false);
        }
        let kind = commit >> 48 & 0xff;
        if kind == Kind::Action as u64 {
            return Ok(StateWord::decode(state, self.seed, lsn).is_some_and(|word| word.state.is_final()));
        }
        if kind == Kind::Amendment as u64 {
            // Its `scope` is the position of what it amends.
            return Ok(!self.is_open_at(scope)?);
        }
        Ok(true)
    }

    /// Whether a segment was put into a long file since this was last asked.
    #[inline]
    pub(crate) fn take_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed) != 0 && self.crowded.swap(0, Ordering::Relaxed) != 0
    }

    /// Whether the record whose head is at this position is still owed.
    pub(super) fn is_open_at(&self, lsn: u64) -> io::Result<bool> {
        let Some(place) = self.find(self.geometry.segment_of(lsn))? else { return Ok(false) };
        let slot = self.slot(self.word_of(place, lsn))?;
        if slot::read_head(&slot, self.seed, lsn).is_none() {
            return Ok(false);
        }
        let state = StateWord::decode(slot[1], self.seed, lsn).map_or(State::Live, |word| word.state);
        Ok(!state.is_final())
    }
}
