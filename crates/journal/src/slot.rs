//! One slot of 16 words: how it is put together, and when it is believed.
//!
//! | word | head of a record | continuation |
//! |---|---|---|
//! | 0 | commit word: crc32c, then length (16 bits), kind (8), flags (8) | the same |
//! | 1 | state word | 0 |
//! | 2 | LSN: the slot's own position | the same |
//! | 3 | scope | LSN of the head |
//! | 4 | id: the LSN under which it was registered; of an amendment: what it amends | payload from here |
//! | 5 | when, in milliseconds since 1970 | |
//! | 6-15 | payload, 80 bytes | 96 bytes |

use crate::layout::SLOT_WORDS;

/// Payload bytes of a head.
pub(crate) const HEAD_BYTES: usize = 80;
/// Payload bytes of a continuation.
pub(crate) const CONT_BYTES: usize = 96;
/// The longest body of a record, in bytes: its length must fit 16 bits.
pub const BODY_MAX: usize = 65_520;

const HEAD_PAYLOAD: usize = 6;
const CONT_PAYLOAD: usize = 4;

/// The slot belongs to a record that was promised to survive a power cut.
pub(crate) const FLAG_POWER: u8 = 1;

pub(crate) type Slot = [u64; SLOT_WORDS];

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A cleanup that is owed.
    Action = 1,
    /// More of the body of the record before it.
    Continuation = 2,
    /// What became known of an action after it was registered.
    Amendment = 3,
    /// Reserved and not used.
    Skipped = 4,
}

impl Kind {
    fn from_code(code: u64) -> Option<Kind> {
        [Kind::Action, Kind::Continuation, Kind::Amendment, Kind::Skipped]
            .into_iter()
            .find(|kind| *kind as u64 == code)
    }
}

/// What every check of a journal begins with: bytes of another journal never pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed {
    salt: u64,
    crc: u32,
}

impl Seed {
    pub(crate) fn new(salt: u64) -> Seed {
        Seed { salt, crc: crc32c::crc32c(&salt.to_le_bytes()) }
    }

    /// The check of a word that changes: a few multiplications, where a checksum of 16 bytes would be
    /// the dearest part of a disarm. (The finalizer of splitmix64.)
    #[inline]
    pub(crate) fn check(self, position: u64, value: u64) -> u32 {
        let mut mixed = self.salt ^ position.rotate_left(32) ^ value;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half.
        ((mixed ^ mixed >> 31) >> 32) as u32
    }

    #[inline]
    fn over(self, meta: u64, words: &[u64]) -> u32 {
        let mut bytes = [0; SLOT_WORDS * 8];
        bytes[..8].copy_from_slice(&meta.to_le_bytes());
        for (chunk, word) in bytes[8..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        crc32c::crc32c_append(self.crc, &bytes[..8 + words.len() * 8])
    }
}

/// The fields of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    /// Bytes of the whole body.
    pub(crate) len: usize,
    pub(crate) lsn: u64,
    pub(crate) scope: u64,
    pub(crate) id: u64,
    pub(crate) time_ms: u64,
}

/// How many slots a body of this length takes.
pub(crate) fn slots_for(len: usize) -> u64 {
    1 + len.saturating_sub(HEAD_BYTES).div_ceil(CONT_BYTES) as u64
}

/// Words of a head with this much payload, up to where its checksum goes.
fn head_end(len: usize) -> usize {
    HEAD_PAYLOAD + len.min(HEAD_BYTES).div_ceil(8)
}

/// A head; its state word is left at 0, and the words from the second number on are not used.
#[inline]
pub(crate) fn head(seed: Seed, head: &Head, body: &[u8]) -> (Slot, usize) {
    let mut slot = [0; SLOT_WORDS];
    slot[2] = head.lsn;
    slot[3] = head.scope;
    slot[4] = head.id;
    slot[5] = head.time_ms;
    let end = head_end(body.len());
    fill(&mut slot[HEAD_PAYLOAD..], &body[..body.len().min(HEAD_BYTES)]);
    slot[0] = commit_word(seed, head.kind, body.len(), head.flags, &slot[2..end]);
    (slot, end)
}

/// The `index`-th continuation of a record, from 0 on.
pub(crate) fn continuation(seed: Seed, head_lsn: u64, index: u64, body: &[u8]) -> Slot {
    let from = (HEAD_BYTES + index as usize * CONT_BYTES).min(body.len());
    let part = &body[from..body.len().min(from + CONT_BYTES)];
    let mut slot = [0; SLOT_WORDS];
    slot[2] = head_lsn + 1 + index;
    slot[3] = head_lsn;
    fill(&mut slot[CONT_PAYLOAD..], part);
    slot[0] = commit_word(seed, Kind::Continuation, part.len(), 0, &slot[2..]);
    slot
}

/// A head that says: nothing here.
pub(crate) fn skipped(seed: Seed, lsn: u64) -> Slot {
    let nothing = Head { kind: Kind::Skipped, flags: 0, len: 0, lsn, scope: 0, id: 0, time_ms: 0 };
    head(seed, &nothing, &[]).0
}

#[inline]
fn commit_word(seed: Seed, kind: Kind, len: usize, flags: u8, words: &[u64]) -> u64 {
    let meta = len as u64 & 0xffff | (kind as u64) << 16 | u64::from(flags) << 24;
    u64::from(seed.over(meta, words)) | meta << 32
}

#[inline]
fn fill(words: &mut [u64], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<8>();
    for (word, chunk) in words.iter_mut().zip(whole) {
        *word = u64::from_le_bytes(*chunk);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words[whole.len()] = u64::from_le_bytes(last);
    }
}

/// Reads a slot that is to hold a head at this position. `None`: nothing there that was committed.
pub(crate) fn read_head(slot: &Slot, seed: Seed, lsn: u64) -> Option<Head> {
    let (kind, len, flags) = meta(slot[0])?;
    if kind == Kind::Continuation || len > BODY_MAX || slot[2] != lsn {
        return None;
    }
    checked(slot, seed, &slot[2..head_end(len)])?;
    Some(Head { kind, flags, len, lsn, scope: slot[3], id: slot[4], time_ms: slot[5] })
}

/// Reads a slot that is to continue the record at `head_lsn`; appends its bytes.
pub(crate) fn read_continuation(
    slot: &Slot,
    seed: Seed,
    head_lsn: u64,
    lsn: u64,
    body: &mut Vec<u8>,
) -> Option<()> {
    let (kind, len, _) = meta(slot[0])?;
    if kind != Kind::Continuation || len > CONT_BYTES || slot[2] != lsn || slot[3] != head_lsn {
        return None;
    }
    checked(slot, seed, &slot[2..])?;
    take(&slot[CONT_PAYLOAD..], len, body);
    Some(())
}

/// Whether a continuation of any record was committed here.
pub(crate) fn is_continuation(slot: &Slot, seed: Seed, lsn: u64) -> bool {
    read_continuation(slot, seed, slot[3], lsn, &mut Vec::new()).is_some()
}

/// The part of the body that is in the head.
pub(crate) fn head_body(slot: &Slot, head: &Head) -> Vec<u8> {
    let mut body = Vec::with_capacity(head.len);
    take(&slot[HEAD_PAYLOAD..], head.len.min(HEAD_BYTES), &mut body);
    body
}

fn take(words: &[u64], len: usize, body: &mut Vec<u8>) {
    let end = body.len() + len;
    body.extend(words[..len.div_ceil(8)].iter().flat_map(|word| word.to_le_bytes()));
    body.truncate(end);
}

fn meta(commit: u64) -> Option<(Kind, usize, u8)> {
    let meta = commit >> 32;
    // Masked to the width of its field.
    Some((Kind::from_code(meta >> 16 & 0xff)?, (meta & 0xffff) as usize, (meta >> 24) as u8))
}

fn checked(slot: &Slot, seed: Seed, words: &[u64]) -> Option<()> {
    (u64::from(seed.over(slot[0] >> 32, words)) == slot[0] & 0xffff_ffff).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(lsn: u64, len: usize) -> (Head, Vec<u8>) {
        let body: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + lsn) as u8).collect();
        let head = Head { kind: Kind::Action, flags: FLAG_POWER, len, lsn, scope: 3, id: lsn, time_ms: 99 };
        (head, body)
    }

    fn read_whole(slots: &[Slot], seed: Seed, lsn: u64) -> Option<Vec<u8>> {
        let head = read_head(&slots[0], seed, lsn)?;
        let mut body = head_body(&slots[0], &head);
        for (index, slot) in slots[1..].iter().enumerate() {
            read_continuation(slot, seed, lsn, lsn + 1 + index as u64, &mut body)?;
        }
        Some(body)
    }

    #[test]
    fn a_body_of_any_length_comes_back() {
        let seed = Seed::new(5);
        for len in [0, 1, 7, 8, 79, 80, 81, 176, 177, 1000, BODY_MAX] {
            let (fields, body) = sample(4096, len);
            let mut slots = vec![head(seed, &fields, &body).0];
            for index in 0..slots_for(len) - 1 {
                slots.push(continuation(seed, 4096, index, &body));
            }
            assert_eq!(read_whole(&slots, seed, 4096), Some(body), "{len}");
            assert_eq!(read_head(&slots[0], seed, 4096), Some(fields));
            assert_eq!(read_head(&slots[0], seed, 4097), None);
            assert_eq!(read_head(&slots[0], Seed::new(6), 4096), None);
        }
    }

    #[test]
    fn a_continuation_is_never_taken_for_a_head_nor_for_that_of_another_record() {
        let seed = Seed::new(5);
        let forged = head(seed, &sample(11, 80).0, &sample(11, 80).1).0;
        let bytes: Vec<u8> = forged.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut body = vec![0; HEAD_BYTES];
        body.extend(bytes);
        let slot = continuation(seed, 10, 0, &body);
        assert_eq!(read_head(&slot, seed, 11), None);
        assert!(read_continuation(&slot, seed, 9, 11, &mut Vec::new()).is_none());
        assert!(read_continuation(&slot, seed, 10, 11, &mut Vec::new()).is_some());
    }

    /// Every subset of the words of a record, over zeros and over an older record: no state that is
    /// neither all of the old nor all of the new is believed.
    #[test]
    fn no_torn_slot_is_believed() {
        let seed = Seed::new(0x51de);
        let mut tried = 0_u64;
        for lsn in 1..=40_u64 {
            let (fields, body) = sample(lsn * 2048 + 5, 80);
            let (new, _) = head(seed, &fields, &body);
            let (old_fields, old_body) = sample((lsn - 1) * 2048 + 5, 61);
            let (stale, _) = head(seed, &old_fields, &old_body);
            for under in [[0; SLOT_WORDS], stale] {
                for mask in 0_u32..1 << SLOT_WORDS {
                    let torn: Slot =
                        std::array::from_fn(|at| if mask >> at & 1 == 1 { new[at] } else { under[at] });
                    let whole = torn[2..] == new[2..] && torn[0] == new[0];
                    assert_eq!(read_head(&torn, seed, fields.lsn).is_some(), whole, "{lsn} {mask:x}");
                    tried += 1;
                }
            }
        }
        assert_eq!(tried, 40 * 2 * 65_536);
    }
}
