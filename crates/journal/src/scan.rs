//! Reading a log: every slot by itself. Holes are normal where several write, so nothing stops at one;
//! no content of the file makes it panic, and nothing is believed that does not check.

use std::collections::HashMap;
use std::io;

use crate::layout::{SLOT_WORDS, control};
use crate::log::{Log, LogError, Placed};
use crate::medium::Medium;
use crate::slot::{self, FLAG_POWER, Head, Kind, Slot};
use crate::word::{State, StateWord};

/// A record of something that is, or was, owed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Unique in its journal; a newer record has a higher one.
    pub id: u64,
    /// The scope it belongs to.
    pub scope: u64,
    /// When it was registered, in milliseconds since 1970, by the clock of whoever did.
    pub time_ms: u64,
    /// What has become of it.
    pub state: State,
    /// How often it was begun.
    pub attempts: u8,
    /// What is owed, as it was registered.
    pub body: Vec<u8>,
    /// What became known of it later: the newest amendment.
    pub amendment: Option<Vec<u8>>,
    /// It was promised to survive a power cut.
    pub power: bool,
    pub(crate) flags: u8,
    pub(crate) lsn: u64,
    pub(crate) at: usize,
    /// The state word as it was read.
    pub(crate) word: u64,
}

impl Entry {
    /// A record of another store than a journal. A state that is not known counts as parked.
    pub fn new(id: u64, scope: u64, time_ms: u64, state: Option<State>, body: Vec<u8>) -> Entry {
        let state = state.unwrap_or(State::Parked);
        let (attempts, amendment, power) = (0, None, true);
        Entry {
            id,
            scope,
            time_ms,
            state,
            attempts,
            body,
            amendment,
            power,
            flags: 0,
            lsn: id,
            at: 0,
            word: 0,
        }
    }

    /// The same with what has become of it.
    pub fn with(self, attempts: u8, amendment: Option<Vec<u8>>) -> Entry {
        Entry { attempts, amendment, ..self }
    }

    pub(crate) fn placed(&self) -> Placed {
        Placed { lsn: self.lsn, at: self.at }
    }
}

/// What is in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scan {
    /// Every record, oldest first, whatever has become of it. Of one that was moved, the copy in force.
    pub entries: Vec<Entry>,
    /// Slots that were reserved and never written: their writer was killed, or is at it.
    pub holes: u64,
    /// Slots that were written and cannot be read. After a power cut: it took a part before anyone was told
    /// that the record was kept. Without one: somebody has changed the file, or the device has.
    pub damaged: u64,
}

impl Scan {
    /// What is owed or kept, newest first.
    pub fn open(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev().filter(|entry| entry.state.is_open())
    }

    /// The record with this id.
    pub fn find(&self, id: u64) -> Option<&Entry> {
        let at = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.entries.get(at)
    }
}

impl<M: Medium> Log<M> {
    /// Reads everything. A record that is moved meanwhile is seen where it was, or where it is.
    pub(crate) fn scan(&self) -> io::Result<Scan> {
        for _ in 0..3 {
            let before = self.medium().load(control::MOVES)?;
            if before % 2 == 1 {
                break;
            }
            let scan = self.read_all()?;
            if self.medium().load(control::MOVES)? == before {
                return Ok(scan);
            }
        }
        self.medium().exclusively(|| {
            // Its mover may be dead.
            self.settle_copy().map_err(LogError::into_io)?;
            self.read_all()
        })?
    }

    pub(crate) fn read_all(&self) -> io::Result<Scan> {
        let mut reading = Reading::default();
        for place in 0..self.places()? {
            if let Some(segment) = self.segment_at(place)? {
                self.read_segment(place, segment, &mut reading)?;
            }
        }
        Ok(reading.conclude())
    }

    /// Reads one record by itself, if it is as it was registered: nothing else can say anything of it.
    pub(crate) fn read_live(&self, id: u64) -> io::Result<Option<Entry>> {
        let Some(placed) = self.committed(id)? else { return Ok(None) };
        let mut head = [0; SLOT_WORDS];
        self.medium().read(placed.at, &mut head)?;
        let Some(fields) = slot::read_head(&head, self.seed(), id) else { return Ok(None) };
        // At most 684.
        let mut words = vec![0; slot::slots_for(fields.len) as usize * SLOT_WORDS];
        self.medium().read(placed.at, &mut words)?;
        let mut reading = Reading::default();
        self.read_record(words.as_chunks::<SLOT_WORDS>().0, placed, &mut reading)?;
        Ok(reading.entries.pop().filter(|entry| entry.state == State::Live && entry.id == id))
    }

    /// Reads one segment. Amendments that lie elsewhere are missing.
    pub(crate) fn scan_place(&self, place: u32, segment: u64) -> io::Result<Scan> {
        let mut reading = Reading::default();
        self.read_segment(place, segment, &mut reading)?;
        Ok(reading.conclude())
    }

    fn read_segment(&self, place: u32, segment: u64, into: &mut Reading) -> io::Result<()> {
        let geometry = self.geometry();
        let Some(first) = segment.checked_shl(geometry.slots_log2) else { return Ok(()) };
        let used = self.end()?.saturating_sub(first).min(geometry.slots());
        // At most the slots of a segment.
        let mut words = vec![0; used as usize * SLOT_WORDS];
        self.medium().read(geometry.place(place), &mut words)?;
        let slots = words.as_chunks::<SLOT_WORDS>().0;
        let mut index = 0;
        while index < slots.len() {
            let placed = Placed { lsn: first + index as u64, at: geometry.place(place) + index * SLOT_WORDS };
            index += self.read_record(&slots[index..], placed, into)?;
        }
        Ok(())
    }

    /// Whether a slot that is not the head of a record was one, or a part of one. A writer clears the commit
    /// word first: where there is one, what it stands for is whole, of this life of the slot or of a former.
    fn is_damaged(&self, slot: &Slot, placed: Placed) -> io::Result<bool> {
        let (lsn, written) = (placed.lsn, slot[2]);
        let former = written < lsn && (lsn - written) % self.geometry().slots() == 0;
        if slot[0] == 0 || former || slot::is_continuation(slot, self.seed(), lsn) {
            return Ok(false);
        }
        // Not one that is being written at this moment.
        Ok(self.medium().load(placed.at)? == slot[0] && self.medium().load(placed.at + 2)? == written)
    }

    /// Reads the record that may begin here. Returns how many slots it takes.
    fn read_record(&self, slots: &[Slot], placed: Placed, into: &mut Reading) -> io::Result<usize> {
        let seed = self.seed();
        let Some(head) = slot::read_head(&slots[0], seed, placed.lsn) else {
            if self.is_damaged(&slots[0], placed)? {
                into.damaged += 1;
            } else if !slot::is_continuation(&slots[0], seed, placed.lsn) {
                into.holes += 1;
            }
            return Ok(1);
        };
        let mut body = slot::head_body(&slots[0], &head);
        // At most 684.
        let taken = slot::slots_for(head.len) as usize;
        for index in 1..taken {
            let lsn = placed.lsn + index as u64;
            let whole =
                slots.get(index).and_then(|s| slot::read_continuation(s, seed, placed.lsn, lsn, &mut body));
            if whole.is_none() {
                into.damaged += 1;
                return Ok(1);
            }
        }
        if body.len() != head.len {
            into.damaged += 1;
            return Ok(1);
        }
        into.take(&head, placed, &slots[0], body, StateWord::decode(slots[0][1], seed, placed.lsn));
        Ok(taken)
    }
}

#[derive(Default)]
struct Reading {
    entries: Vec<Entry>,
    /// Position of what is amended, to LSN and body.
    amendments: HashMap<u64, (u64, Vec<u8>)>,
    holes: u64,
    damaged: u64,
}

impl Reading {
    fn take(&mut self, head: &Head, placed: Placed, slot: &Slot, body: Vec<u8>, word: Option<StateWord>) {
        match head.kind {
            Kind::Action => {
                let state = word.unwrap_or(StateWord::new(State::Live));
                self.entries.push(Entry {
                    id: head.id,
                    scope: head.scope,
                    time_ms: head.time_ms,
                    state: state.state,
                    attempts: state.attempts,
                    body,
                    amendment: None,
                    power: head.flags & FLAG_POWER != 0,
                    flags: head.flags,
                    lsn: placed.lsn,
                    at: placed.at,
                    word: slot[1],
                });
            }
            Kind::Amendment => {
                let newest = self.amendments.entry(head.scope).or_default();
                if newest.0 < placed.lsn {
                    *newest = (placed.lsn, body);
                }
            }
            Kind::Continuation | Kind::Skipped => {}
        }
    }

    fn conclude(mut self) -> Scan {
        // Copies lie at any position, so it is the state that says which of them is in force.
        self.entries.sort_by_key(|entry| (entry.id, force(entry.state)));
        let mut entries: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for entry in self.entries {
            match entries.last_mut() {
                Some(last) if last.id == entry.id => *last = entry,
                _ => entries.push(entry),
            }
        }
        entries.retain(|entry| !matches!(entry.state, State::Moved | State::Void));
        for entry in &mut entries {
            if entry.state == State::Copy {
                // Its original was moved, and is perhaps gone; its mover did not live to say so.
                entry.state = State::Live;
            }
            entry.amendment = self.amendments.remove(&entry.lsn).map(|(_, body)| body);
        }
        Scan { entries, holes: self.holes, damaged: self.damaged }
    }
}

/// Of an original and its copies, the one with the greatest counts.
fn force(state: State) -> u8 {
    match state {
        State::Void => 0,
        State::Moved => 1,
        State::Copy => 2,
        state if state.is_final() => 3,
        _ => 4,
    }
}
