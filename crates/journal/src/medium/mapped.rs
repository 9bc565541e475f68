//! A shared mapping: a store is in the page cache the moment it is done, whatever becomes of the
//! process in the next instruction.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use super::Medium;
use crate::layout::WORD_BYTES;
use crate::os;

/// The whole address range that the file may ever need is mapped at once, beyond its end: growing it
/// then moves nothing, in this process or another.
pub(crate) struct Mapped {
    file: File,
    map: MmapRaw,
    capacity: usize,
    /// Locks of a file do not keep two threads of one open file apart.
    section: Mutex<()>,
}

impl Mapped {
    pub(crate) fn new(file: &File, words_max: usize) -> io::Result<Mapped> {
        let file = file.try_clone()?;
        let map = MmapOptions::new().len(words_max * WORD_BYTES).map_raw(&file)?;
        // A core file of the program has no use for what is in a file anyhow; where the advice is not
        // known, it is only longer.
        let _ = map.advise(memmap2::Advice::DontDump);
        Ok(Mapped { file, map, capacity: words_max, section: Mutex::new(()) })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.capacity, "word {at} is outside the journal");
        let pointer = self.map.as_mut_ptr().cast::<u64>();
        // SAFETY: `at` is within the mapping, which is page-aligned and lives as long as `self`. All
        // access to it, from every process, is by atomic words. Callers stay below the file's end,
        // which never comes nearer: no journal is ever cut.
        unsafe { AtomicU64::from_ptr(pointer.add(at)) }
    }
}

impl Medium for Mapped {
    fn words(&self) -> io::Result<usize> {
        let bytes = self.file.metadata()?.len();
        Ok((usize::try_from(bytes).unwrap_or(usize::MAX) / WORD_BYTES).min(self.capacity))
    }

    fn grow(&self, words: usize) -> io::Result<()> {
        if words > self.capacity {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        os::allocate(&self.file, words * WORD_BYTES)
    }

    #[inline]
    fn load(&self, at: usize) -> io::Result<u64> {
        Ok(self.word(at).load(Ordering::SeqCst))
    }

    #[inline]
    fn store(&self, at: usize, value: u64) -> io::Result<()> {
        self.word(at).store(value, Ordering::Release);
        Ok(())
    }

    #[inline]
    fn publish(&self, at: usize, value: u64) -> io::Result<()> {
        // One locked instruction, where a store and a fence would be two.
        self.word(at).swap(value, Ordering::SeqCst);
        Ok(())
    }

    #[inline]
    fn exchange(&self, at: usize, old: u64, new: u64) -> io::Result<Result<(), u64>> {
        let word = self.word(at);
        Ok(word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).map(|_| ()))
    }

    #[inline]
    fn add(&self, at: usize, more: u64) -> io::Result<u64> {
        Ok(self.word(at).fetch_add(more, Ordering::SeqCst))
    }

    #[inline]
    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        for (offset, word) in words.iter().enumerate() {
            self.word(at + offset).store(*word, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read(&self, at: usize, words: &mut [u64]) -> io::Result<()> {
        for (offset, word) in words.iter_mut().enumerate() {
            *word = self.word(at + offset).load(Ordering::SeqCst);
        }
        Ok(())
    }

    fn exclusively<T>(&self, section: impl FnOnce() -> T) -> io::Result<T> {
        let _mine = self.section.lock().unwrap_or_else(PoisonError::into_inner);
        let _locked = os::lock_range(&self.file, os::GROW)?;
        Ok(section())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
