//! The reading side: what the ring of a living or dead process says.

use std::fs;
use std::path::Path;

use crate::RingError;
use crate::layout::{self, header, state};

/// What a ring said at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The process that wrote it.
    pub pid: u32,
    /// Counts over the whole life of the process.
    pub totals: Totals,
    /// What was registered and had not been run, oldest first.
    pub pending: Vec<Pending>,
    /// The latest events, oldest first; at most 4096.
    pub events: Vec<Event>,
}

/// Counts over the whole life of a process. They do not wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Ran and returned normally.
    pub ran: u64,
    /// Ran and returned an error.
    pub failed: u64,
    /// Ran and panicked.
    pub panicked: u64,
    /// Cut off, or never begun, because time had run out.
    pub abandoned: u64,
    /// Shall not run.
    pub disarmed: u64,
    /// Registered while the table was full: not counted above, and their fate is unknown.
    pub unnamed: u64,
}

impl Totals {
    /// Cleanups that were run, whatever came of it.
    pub fn run(&self) -> u64 {
        self.ran + self.failed + self.panicked
    }
}

/// A cleanup that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// `name @ file:line`, cut at 112 bytes.
    pub what: String,
    /// When it was registered: `CLOCK_MONOTONIC`, in nanoseconds.
    pub since_ns: u64,
}

/// One registration or payment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// `name @ file:line`, cut at 104 bytes.
    pub what: String,
    /// When: `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
}

/// What happened to a cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Pending from then on.
    Registered,
    /// Ran and returned normally.
    Ran,
    /// Ran and returned an error.
    Failed,
    /// Ran and panicked.
    Panicked,
    /// Cut off at its deadline, or never begun.
    Abandoned,
    /// Shall not run.
    Disarmed,
}

impl EventKind {
    const ALL: [EventKind; 6] = [
        EventKind::Registered,
        EventKind::Ran,
        EventKind::Failed,
        EventKind::Panicked,
        EventKind::Abandoned,
        EventKind::Disarmed,
    ];

    pub(crate) fn code(self) -> u64 {
        self as u64 + 1
    }

    fn from_code(code: u64) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

impl Snapshot {
    /// Reads the ring at `path`. The process that writes it may be alive: then the counts are of
    /// one moment each, and may differ by what happened in between.
    ///
    /// # Errors
    ///
    /// [`RingError::Io`] when the file cannot be read, [`RingError::NotARing`] when it is
    /// something else or cut off. No content makes it panic.
    pub fn read(path: &Path) -> Result<Snapshot, RingError> {
        let named = || path.display().to_string();
        let bytes = fs::read(path).map_err(|source| RingError::Io { path: named(), source })?;
        parse(&bytes).map_err(|why| RingError::NotARing { path: named(), why })
    }

    /// Cleanups that were to run: the pending, the abandoned and those that ran.
    pub fn registered(&self) -> u64 {
        self.totals.run() + self.totals.abandoned + self.pending.len() as u64
    }
}

fn parse(bytes: &[u8]) -> Result<Snapshot, &'static str> {
    if bytes.len() < layout::BYTES {
        return Err("too short");
    }
    let words: Vec<u64> =
        bytes.as_chunks::<8>().0.iter().take(layout::WORDS).map(|c| u64::from_ne_bytes(*c)).collect();
    if words[header::MAGIC] != layout::MAGIC {
        return Err("wrong first bytes");
    }
    Ok(Snapshot {
        pid: u32::try_from(words[header::PID]).map_err(|_| "impossible pid")?,
        totals: Totals {
            ran: words[header::RAN],
            failed: words[header::FAILED],
            panicked: words[header::PANICKED],
            abandoned: words[header::ABANDONED],
            disarmed: words[header::DISARMED],
            unnamed: words[header::UNNAMED],
        },
        pending: pending(&words),
        events: events(&words),
    })
}

fn pending(words: &[u64]) -> Vec<Pending> {
    let mut found: Vec<_> = (0..layout::PENDING_SLOTS)
        .map(layout::pending_slot)
        .filter(|&slot| words[slot] == state::PENDING)
        .map(|slot| Pending {
            what: text(&words[slot + 2..][..layout::PENDING_TEXT_WORDS]),
            since_ns: words[slot + 1],
        })
        .collect();
    found.sort_by_key(|pending| pending.since_ns);
    found
}

fn events(words: &[u64]) -> Vec<Event> {
    let mut found: Vec<_> = (0..layout::EVENT_SLOTS as u64)
        .map(layout::event_slot)
        .filter(|&slot| words[slot] != 0)
        .filter_map(|slot| {
            let event = Event {
                kind: EventKind::from_code(words[slot + 2])?,
                what: text(&words[slot + 3..][..layout::EVENT_TEXT_WORDS]),
                at_ns: words[slot + 1],
            };
            Some((words[slot], event))
        })
        .collect();
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, event)| event).collect()
}

fn text(words: &[u64]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_refused_or_read_but_never_panics() {
        assert_eq!(parse(b"").err(), Some("too short"));
        assert_eq!(parse(&vec![0xff; layout::BYTES]).err(), Some("wrong first bytes"));
        let mut bytes = vec![0xa5; layout::BYTES + 3];
        bytes[..8].copy_from_slice(&layout::MAGIC.to_ne_bytes());
        assert_eq!(parse(&bytes).err(), Some("impossible pid"));
        bytes[8..16].copy_from_slice(&7u64.to_ne_bytes());
        assert_eq!(parse(&bytes).map(|seen| (seen.pid, seen.events.len())), Ok((7, 0)));
    }
}
