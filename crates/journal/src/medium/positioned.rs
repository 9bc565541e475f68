//! Reads and writes at positions, for file systems where a mapping is not to be trusted. A dozen times
//! slower; every change of a shared word is made under a lock of the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::Medium;
use crate::layout::WORD_BYTES;
use crate::os;

pub(crate) struct Positioned {
    file: File,
    section: Mutex<()>,
    /// Apart from the section's, because words are changed inside of it.
    word: Mutex<()>,
}

impl Positioned {
    pub(crate) fn new(file: File) -> Positioned {
        Positioned { file, section: Mutex::new(()), word: Mutex::new(()) }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }

    fn change<T>(&self, at: usize, change: impl FnOnce(u64) -> (Option<u64>, T)) -> io::Result<T> {
        let _mine = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let _locked = os::lock_range(&self.file, os::WORD)?;
        let (new, result) = change(self.load(at)?);
        if let Some(new) = new {
            self.store(at, new)?;
        }
        Ok(result)
    }
}

fn offset(at: usize) -> u64 {
    (at * WORD_BYTES) as u64
}

impl Medium for Positioned {
    fn words(&self) -> io::Result<usize> {
        Ok(usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX) / WORD_BYTES)
    }

    fn grow(&self, words: usize) -> io::Result<()> {
        os::allocate(&self.file, words * WORD_BYTES)
    }

    fn load(&self, at: usize) -> io::Result<u64> {
        let mut bytes = [0; WORD_BYTES];
        self.file.read_exact_at(&mut bytes, offset(at))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn store(&self, at: usize, value: u64) -> io::Result<()> {
        self.file.write_all_at(&value.to_le_bytes(), offset(at))
    }

    fn publish(&self, at: usize, value: u64) -> io::Result<()> {
        self.store(at, value)
    }

    fn exchange(&self, at: usize, old: u64, new: u64) -> io::Result<Result<(), u64>> {
        self.change(at, |found| if found == old { (Some(new), Ok(())) } else { (None, Err(found)) })
    }

    fn add(&self, at: usize, more: u64) -> io::Result<u64> {
        self.change(at, |found| (Some(found.wrapping_add(more)), found))
    }

    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, offset(at))
    }

    fn read(&self, at: usize, words: &mut [u64]) -> io::Result<()> {
        let mut bytes = vec![0; words.len() * WORD_BYTES];
        self.file.read_exact_at(&mut bytes, offset(at))?;
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<WORD_BYTES>().0) {
            *word = u64::from_le_bytes(*chunk);
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
