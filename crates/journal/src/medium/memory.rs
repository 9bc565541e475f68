//! Words in memory, for tests and models: only those that a small journal uses exist.

use std::io;

use super::Medium;
use crate::layout::{CONTROL_WORDS, DIRECTORY, Geometry, control};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Control words that exist.
const CONTROL: [usize; 15] = [
    control::PHASE,
    control::TAIL,
    control::COPYING,
    control::COPY_NEXT,
    control::COPY_END,
    control::MOVES,
    control::AMENDS,
    control::SEGMENTS,
    control::OWNER,
    control::OWNER + 1,
    control::PAYER,
    control::PAYER + 1,
    control::SCOPES,
    control::ENDED,
    control::POWER,
];

pub(crate) struct Memory {
    control: [AtomicU64; CONTROL.len()],
    directory: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
    section: Mutex<()>,
}

impl Memory {
    pub(crate) fn new(geometry: Geometry) -> Memory {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        let segments = geometry.segments_max as usize;
        Memory {
            control: std::array::from_fn(|_| AtomicU64::new(0)),
            directory: zeros(segments),
            slots: zeros(segments * geometry.segment_words()),
            section: Mutex::new(()),
        }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        if at >= CONTROL_WORDS {
            &self.slots[at - CONTROL_WORDS]
        } else if at >= DIRECTORY {
            &self.directory[at - DIRECTORY]
        } else {
            &self.control[CONTROL.iter().position(|known| *known == at).unwrap()]
        }
    }
}

impl Medium for Memory {
    fn words(&self) -> io::Result<usize> {
        Ok(CONTROL_WORDS + self.slots.len())
    }

    fn grow(&self, words: usize) -> io::Result<()> {
        if words <= CONTROL_WORDS + self.slots.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    fn load(&self, at: usize) -> io::Result<u64> {
        Ok(self.word(at).load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u64) -> io::Result<()> {
        self.word(at).store(value, Ordering::Release);
        Ok(())
    }

    fn publish(&self, at: usize, value: u64) -> io::Result<()> {
        self.word(at).swap(value, Ordering::SeqCst);
        crate::sync::fence(Ordering::SeqCst);
        Ok(())
    }

    fn exchange(&self, at: usize, old: u64, new: u64) -> io::Result<Result<(), u64>> {
        let word = self.word(at);
        let changed = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(|_| ());
        // Loom knows one order of all only by fences.
        crate::sync::fence(Ordering::SeqCst);
        Ok(changed)
    }

    fn add(&self, at: usize, more: u64) -> io::Result<u64> {
        Ok(self.word(at).fetch_add(more, Ordering::SeqCst))
    }

    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        for (offset, word) in words.iter().enumerate() {
            self.word(at + offset).store(*word, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read(&self, at: usize, words: &mut [u64]) -> io::Result<()> {
        for (offset, word) in words.iter_mut().enumerate() {
            *word = self.word(at + offset).load(Ordering::Acquire);
        }
        Ok(())
    }

    fn exclusively<T>(&self, section: impl FnOnce() -> T) -> io::Result<T> {
        let _mine = self.section.lock().unwrap();
        Ok(section())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
