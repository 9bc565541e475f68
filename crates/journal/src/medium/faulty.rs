//! A medium for tests: its writer can be killed at any step, and its power cut with any part of what
//! was not flushed on the device.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Medium;

#[derive(Default)]
pub(crate) struct Faulty(Mutex<State>);

#[derive(Default)]
struct State {
    words: Vec<u64>,
    /// As on the device.
    durable: Vec<u64>,
    /// Every value that a word has had since the last flush: the device may have any of them.
    dirty: BTreeMap<usize, Vec<u64>>,
    /// Steps until the writer is dead; a flush, a store and growing are a step each.
    left: Option<u64>,
    steps: u64,
    /// The flushes that are refused, counted from now.
    refuse: Vec<u64>,
    flushes: u64,
}

impl Faulty {
    pub(crate) fn new(words: Vec<u64>) -> Faulty {
        Faulty(Mutex::new(State { durable: words.clone(), words, ..State::default() }))
    }

    /// The writer dies before its `steps`-th step from now.
    pub(crate) fn die_after(&self, steps: u64) {
        self.lock().left = Some(steps);
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// The flush after this many more is refused, and what it was to flush is lost.
    pub(crate) fn refuse_flush(&self, after: u64) {
        let mut state = self.lock();
        let which = state.flushes + after;
        state.refuse.push(which);
    }

    /// What another process sees after the writer was killed.
    pub(crate) fn after_kill(&self) -> Vec<u64> {
        self.lock().words.clone()
    }

    /// What the device may have after a power cut: `choose(n)` picks a number below n.
    pub(crate) fn after_power_cut(&self, mut choose: impl FnMut(u64) -> u64) -> Vec<u64> {
        let state = self.lock();
        let mut found = state.durable.clone();
        // The size survives by itself, or not.
        if choose(2) == 0 {
            found.resize(state.words.len(), 0);
        }
        for (at, values) in &state.dirty {
            let Some(word) = found.get_mut(*at) else { continue };
            let value = values[choose(values.len() as u64) as usize];
            match choose(8) {
                0..=2 => {}
                3..=5 => *word = value,
                // Torn: some bytes of it.
                _ => {
                    let keep = (0..8).fold(0, |keep, byte| keep | (choose(2) * 0xff) << (8 * byte));
                    *word = *word & !keep | value & keep;
                }
            }
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.steps += 1;
        if let Some(left) = &mut state.left {
            if *left == 0 {
                return Err(io::Error::other("killed"));
            }
            *left -= 1;
        }
        Ok(state)
    }
}

impl State {
    fn set(&mut self, at: usize, value: u64) {
        self.words[at] = value;
        self.dirty.entry(at).or_default().push(value);
    }
}

impl Medium for std::sync::Arc<Faulty> {
    fn words(&self) -> io::Result<usize> {
        Ok(self.lock().words.len())
    }

    fn grow(&self, words: usize) -> io::Result<()> {
        let mut state = self.step()?;
        if state.words.len() < words {
            state.words.resize(words, 0);
        }
        Ok(())
    }

    fn load(&self, at: usize) -> io::Result<u64> {
        let state = self.lock();
        if state.left == Some(0) { Err(io::Error::other("killed")) } else { Ok(state.words[at]) }
    }

    fn store(&self, at: usize, value: u64) -> io::Result<()> {
        self.step()?.set(at, value);
        Ok(())
    }

    fn publish(&self, at: usize, value: u64) -> io::Result<()> {
        self.store(at, value)
    }

    fn exchange(&self, at: usize, old: u64, new: u64) -> io::Result<Result<(), u64>> {
        let mut state = self.step()?;
        let found = state.words[at];
        if found != old {
            return Ok(Err(found));
        }
        state.set(at, new);
        Ok(Ok(()))
    }

    fn add(&self, at: usize, more: u64) -> io::Result<u64> {
        let mut state = self.step()?;
        let before = state.words[at];
        state.set(at, before.wrapping_add(more));
        Ok(before)
    }

    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        for (offset, word) in words.iter().enumerate() {
            self.store(at + offset, *word)?;
        }
        Ok(())
    }

    fn read(&self, at: usize, words: &mut [u64]) -> io::Result<()> {
        words.copy_from_slice(&self.lock().words[at..at + words.len()]);
        Ok(())
    }

    fn exclusively<T>(&self, section: impl FnOnce() -> T) -> io::Result<T> {
        Ok(section())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.step()?;
        let this = state.flushes;
        state.flushes += 1;
        let dirty = std::mem::take(&mut state.dirty);
        if state.refuse.contains(&this) {
            // Linux marks the pages clean and says so once: what was in them may be anywhere.
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let len = state.words.len();
        state.durable.resize(len, 0);
        for at in dirty.into_keys() {
            state.durable[at] = state.words[at];
        }
        Ok(())
    }
}
