//! Moving what stays owed for long out of segments in which nearly everything is over.
//!
//! Copies go to segments of their own, so that they are not in the way again. A copy is written under
//! the same id and does not count; then the original is marked as moved; then the copy counts. A mover
//! killed in between leaves its copy's position in a control word, and whoever next takes the lock
//! settles it: it counts unless its original still does.

use std::io;

use super::{Log, LogError, New, Placed};
use crate::layout::{SLOT_WORDS, control};
use crate::medium::Medium;
use crate::scan::Entry;
use crate::slot::{self, Kind};
use crate::sync::Ordering;
use crate::word::{State, StateWord};

/// Segments that are looked at in one go.
const TRIES: u64 = 4;

impl<M: Medium> Log<M> {
    /// Empties one segment in which hardly anything is owed, if there is one among the next few.
    pub(crate) fn move_stragglers(&self) -> Result<(), LogError> {
        let places = u64::from(self.places()?).max(1);
        let current = self.geometry.segment_of(self.medium.load(control::TAIL)?);
        for _ in 0..TRIES {
            // A remainder of a u32.
            let place = (self.sweep.fetch_add(1, Ordering::Relaxed) % places) as u32;
            let Some(segment) = self.segment_at(place)? else { continue };
            if segment + 1 >= current {
                continue;
            }
            let scan = self.scan_place(place, segment)?;
            let open: Vec<&Entry> = scan.open().collect();
            let amendment =
                |entry: &Entry| entry.amendment.as_ref().map_or(0, |body| slot::slots_for(body.len()));
            let slots = |entry: &&Entry| slot::slots_for(entry.body.len()) + amendment(entry);
            // By the room they take: of long records a few fill a segment, and moving them would gain nothing.
            let few = open.iter().map(slots).sum::<u64>() <= self.geometry.slots() / 16;
            if open.is_empty() || !few || !open.iter().all(|entry| entry.state.is_untouched()) {
                continue;
            }
            self.empty(segment, &open)?;
            self.cursor.store(u64::from(place), Ordering::Relaxed);
            return Ok(());
        }
        Ok(())
    }

    fn empty(&self, segment: u64, open: &[&Entry]) -> Result<(), LogError> {
        if open.iter().all(|entry| entry.state == State::Live) {
            return open.iter().try_for_each(|entry| self.relocate(entry, 0).map(drop));
        }
        // Amendments may lie anywhere.
        let amends = self.amends()?;
        let scan = self.scan()?;
        let here = |entry: &&Entry| self.geometry.segment_of(entry.lsn) == segment;
        scan.open().filter(here).try_for_each(|entry| self.relocate(entry, amends).map(drop))
    }

    /// Copies a record that is owed to a segment for copies. Returns whether it was moved: not so if it
    /// was begun or disarmed meanwhile. `amends` is what [`amends`](Log::amends) said before it was read.
    pub(crate) fn relocate(&self, entry: &Entry, amends: u64) -> Result<bool, LogError> {
        self.medium.exclusively(|| {
            self.settle_copy()?;
            // Amendments are made under this lock too: the newest is the one that is there now.
            let amendment = match entry.state {
                State::Amended if self.amends()? != amends => {
                    self.read_all()?.find(entry.id).and_then(|entry| entry.amendment.clone())
                }
                _ => entry.amendment.clone(),
            };
            let to = self.reserve_copy(slot::slots_for(entry.body.len()))?;
            let from = entry.placed();
            let copy = New {
                kind: Kind::Action,
                flags: entry.flags,
                scope: entry.scope,
                id: Some(entry.id),
                time_ms: entry.time_ms,
                state: State::Copy,
                body: &entry.body,
            };
            if let Some(body) = &amendment {
                let place = self.reserve_copy(slot::slots_for(body.len()))?;
                self.fill(place, &New { kind: Kind::Amendment, scope: to.lsn, body, ..copy })?;
            }
            let moves = self.medium.load(control::MOVES)?;
            self.medium.store(control::MOVES, moves | 1)?;
            // Named before it is there: a mover killed in between leaves a name without a copy.
            self.medium.store(control::COPYING, to.lsn)?;
            self.fill(to, &copy)?;
            if self.synced_places()? {
                self.medium.sync()?;
            }
            let moved = match self.state(from)? {
                // One that was amended since it was read would lose that.
                Some((state, word)) if state.state == entry.state && state.state.is_untouched() => {
                    self.change(from, word, StateWord::new(State::Moved))?.is_ok()
                }
                _ => false,
            };
            let owed = if amendment.is_some() { State::Amended } else { State::Live };
            self.conclude_copy(to, if moved { owed } else { State::Void })?;
            if moved {
                self.remember(entry.id, to);
            }
            Ok(moved)
        })?
    }

    /// How many amendments there were.
    pub(crate) fn amends(&self) -> io::Result<u64> {
        self.medium.load(control::AMENDS)
    }

    /// Notes that there is one more. Under the lock.
    pub(crate) fn count_amend(&self) -> io::Result<()> {
        self.medium.store(control::AMENDS, self.amends()?.wrapping_add(1))
    }

    fn conclude_copy(&self, to: Placed, verdict: State) -> Result<(), LogError> {
        let verdict = StateWord::new(verdict);
        let copy = StateWord::new(State::Copy).encode(self.seed, to.lsn);
        // Lost to a disarm of the copy: that is a verdict too.
        let _ = self.change(to, copy, verdict)?;
        self.end_move()
    }

    fn end_move(&self) -> Result<(), LogError> {
        self.medium.store(control::COPYING, 0)?;
        let moves = self.medium.load(control::MOVES)?;
        if moves % 2 == 1 {
            self.medium.store(control::MOVES, moves.wrapping_add(1))?;
        }
        Ok(())
    }

    /// Decides a copy whose mover is dead: it counts unless another record of its id does. Under the lock.
    pub(crate) fn settle_copy(&self) -> Result<(), LogError> {
        let copy = self.medium.load(control::COPYING)?;
        if copy == 0 && self.medium.load(control::MOVES)? % 2 == 0 {
            return Ok(());
        }
        let in_force = self.read_all()?.entries.iter().any(|entry| entry.lsn == copy);
        match self.committed(copy)? {
            // Perhaps it has an amendment: to take it for amended is right either way.
            Some(to) => self.conclude_copy(to, if in_force { State::Amended } else { State::Void }),
            None => self.end_move(),
        }
    }

    /// Slots in a segment for copies. Under the lock.
    fn reserve_copy(&self, slots: u64) -> Result<Placed, LogError> {
        let (mut next, end) = (self.medium.load(control::COPY_NEXT)?, self.medium.load(control::COPY_END)?);
        // Words of the file, which may say anything: what is not within one segment is not believed.
        let within = next <= end && end - next <= self.geometry.slots() && end <= self.geometry.positions();
        if !within || end - next < slots {
            if within {
                self.skip_under_lock(next, end)?;
            }
            next = self.claim_segment()?;
            self.medium.store(control::COPY_END, next + self.geometry.slots())?;
        }
        self.medium.store(control::COPY_NEXT, next + slots)?;
        let place = self.place_under_lock(self.geometry.segment_of(next))?;
        Ok(Placed { lsn: next, at: self.word_of(place, next) })
    }

    /// The first position of a segment that is all ours. What is left of the one before is not used.
    fn claim_segment(&self) -> Result<u64, LogError> {
        loop {
            let tail = self.medium.load(control::TAIL)?;
            if tail >= self.geometry.positions() - 2 * self.geometry.slots() {
                return Err(LogError::Full);
            }
            let first = (self.geometry.segment_of(tail) + 1) << self.geometry.slots_log2;
            // Before it is claimed: without a place there is nothing to claim.
            self.place_under_lock(self.geometry.segment_of(first))?;
            let claimed = self.medium.exchange(control::TAIL, tail, first + self.geometry.slots())?;
            if claimed.is_ok() {
                self.skip_under_lock(tail, first)?;
                return Ok(first);
            }
        }
    }

    fn skip_under_lock(&self, from: u64, to: u64) -> Result<(), LogError> {
        for lsn in from..to {
            let place = self.place_under_lock(self.geometry.segment_of(lsn))?;
            self.write_slot(self.word_of(place, lsn), &slot::skipped(self.seed, lsn), SLOT_WORDS)?;
        }
        Ok(())
    }

    /// The place of a record whose head is committed at this position.
    pub(crate) fn committed(&self, lsn: u64) -> io::Result<Option<Placed>> {
        let Some(place) = self.find(self.geometry.segment_of(lsn))? else { return Ok(None) };
        let at = self.word_of(place, lsn);
        let slot = self.slot(at)?;
        Ok(slot::read_head(&slot, self.seed, lsn).map(|_| Placed { lsn, at }))
    }
}
