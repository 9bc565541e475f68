//! The words that change: state, directory entry, phase. Each carries its own check, because a power
//! cut may tear even eight bytes.

use crate::slot::Seed;

/// What has become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum State {
    /// Owed.
    Live = 1,
    /// A payer has begun it.
    Running = 2,
    /// It was tried, failed, and is still owed.
    Failed = 3,
    /// It is kept for an operator: a dead letter.
    Parked = 4,
    /// It ran.
    Done = 5,
    /// Its owner said that it shall not run.
    Disarmed = 6,
    /// An operator said that it shall not run.
    Dropped = 7,
    /// It was copied to a later place, under the same id, so that its segment can be used again.
    Moved = 8,
    /// Such a copy, not yet in force: the original counts until it is [`Moved`](State::Moved).
    Copy = 9,
    /// Owed, and something became known of it later.
    Amended = 10,
    /// A copy that never came into force.
    Void = 11,
}

impl State {
    const ALL: [State; 11] = [
        State::Live,
        State::Running,
        State::Failed,
        State::Parked,
        State::Done,
        State::Disarmed,
        State::Dropped,
        State::Moved,
        State::Copy,
        State::Amended,
        State::Void,
    ];

    /// The state of this number, as stores write it.
    pub fn from_code(code: u64) -> Option<State> {
        State::ALL.into_iter().find(|state| *state as u64 == code)
    }

    /// Whether it is still owed, or kept.
    pub fn is_open(self) -> bool {
        matches!(self, State::Live | State::Amended | State::Running | State::Failed | State::Parked)
    }

    /// Whether it is owed and was never begun.
    pub fn is_untouched(self) -> bool {
        matches!(self, State::Live | State::Amended)
    }

    /// Nothing will come after it.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, State::Done | State::Disarmed | State::Dropped | State::Moved | State::Void)
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            State::Live | State::Amended => "pending",
            State::Running => "running",
            State::Failed => "failed",
            State::Parked => "parked",
            State::Done => "done",
            State::Disarmed => "disarmed",
            State::Dropped => "dropped",
            State::Moved => "moved",
            State::Copy => "copied",
            State::Void => "void",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A state, who put it there and after how many attempts.
///
/// As a word: state in bits 0-7, attempts in 8-15, generation in 16-31, check in 32-63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateWord {
    pub(crate) state: State,
    pub(crate) attempts: u8,
    /// The low 16 bits of the payer's generation.
    pub(crate) generation: u16,
}

impl StateWord {
    pub(crate) fn new(state: State) -> StateWord {
        StateWord { state, attempts: 0, generation: 0 }
    }

    #[inline]
    pub(crate) fn encode(self, seed: Seed, lsn: u64) -> u64 {
        let low = self.state as u64 | u64::from(self.attempts) << 8 | u64::from(self.generation) << 16;
        low | u64::from(seed.check(lsn, low)) << 32
    }

    /// `None` for a word that no writer of this slot has written whole.
    #[inline]
    pub(crate) fn decode(word: u64, seed: Seed, lsn: u64) -> Option<StateWord> {
        let low = word & 0xffff_ffff;
        if word >> 32 != u64::from(seed.check(lsn, low)) {
            return None;
        }
        Some(StateWord {
            state: State::from_code(low & 0xff)?,
            // Each masked to the width of its field.
            attempts: (low >> 8 & 0xff) as u8,
            generation: (low >> 16) as u16,
        })
    }
}

/// Whether the run takes records, is being paid, or is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Records are taken.
    Open,
    /// A payer is at work; what comes now is refused.
    Paying,
    /// Everything is paid, or kept for an operator.
    Closed,
}

/// Phase and generation, which only grows: a payer that finds another one has been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PhaseWord {
    pub(crate) phase: Phase,
    pub(crate) generation: u64,
}

impl PhaseWord {
    pub(crate) const GENERATION_MAX: u64 = u64::MAX >> 8;

    pub(crate) fn encode(self) -> u64 {
        self.generation << 8 | self.phase as u64
    }

    pub(crate) fn decode(word: u64) -> PhaseWord {
        let phase = match word & 0xff {
            0 => Phase::Open,
            1 => Phase::Paying,
            _ => Phase::Closed,
        };
        PhaseWord { phase, generation: word >> 8 }
    }
}

/// The directory entry of the place `index`: which segment lies there.
pub(crate) fn encode_entry(seed: Seed, index: u32, segment: u64) -> u64 {
    let low = (segment + 1) & 0xffff_ffff;
    low | u64::from(seed.check(u64::from(index), low)) << 32
}

/// `None` where no segment lies, or the entry is torn.
pub(crate) fn decode_entry(word: u64, seed: Seed, index: u32) -> Option<u64> {
    let low = word & 0xffff_ffff;
    if low == 0 || word >> 32 != u64::from(seed.check(u64::from(index), low)) {
        return None;
    }
    Some(low - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_word_is_only_read_in_its_own_slot_and_journal() {
        let seed = Seed::new(7);
        for state in State::ALL {
            let word = StateWord { state, attempts: 200, generation: 65_000 };
            let coded = word.encode(seed, 12);
            assert_eq!(StateWord::decode(coded, seed, 12), Some(word));
            assert_eq!(StateWord::decode(coded, seed, 13), None);
            assert_eq!(StateWord::decode(coded, Seed::new(8), 12), None);
        }
        assert_eq!(StateWord::decode(0, seed, 12), None);
    }

    #[test]
    fn no_mixture_of_the_bytes_of_two_states_is_a_third() {
        let seed = Seed::new(3);
        let mut accepted = 0;
        for (from, to) in [(State::Live, State::Disarmed), (State::Live, State::Running)] {
            for lsn in 0..2000 {
                let (old, new) =
                    (StateWord::new(from).encode(seed, lsn), StateWord::new(to).encode(seed, lsn));
                for mask in 0_u32..256 {
                    let keep = (0..8).filter(|bit| mask >> bit & 1 == 1).fold(0, |m, b| m | 0xff << (8 * b));
                    let torn = old & !keep | new & keep;
                    if torn != old && torn != new && StateWord::decode(torn, seed, lsn).is_some() {
                        accepted += 1;
                    }
                }
            }
        }
        assert_eq!(accepted, 0);
    }

    #[test]
    fn phases_and_directory_entries_come_back_as_they_were() {
        let word = PhaseWord { phase: Phase::Paying, generation: 1 << 40 };
        assert_eq!(PhaseWord::decode(word.encode()), word);
        let seed = Seed::new(9);
        assert_eq!(decode_entry(encode_entry(seed, 4, 0), seed, 4), Some(0));
        assert_eq!(decode_entry(encode_entry(seed, 4, 77), seed, 5), None);
        assert_eq!(decode_entry(0, seed, 0), None);
    }
}
