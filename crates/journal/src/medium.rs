//! What a journal is written to: an array of 64-bit words that outlives the process.

#[cfg(all(test, not(epilogue_loom)))]
pub(crate) mod faulty;
mod mapped;
#[cfg(all(test, epilogue_loom))]
pub(crate) mod memory;
mod positioned;

pub(crate) use mapped::Mapped;
pub(crate) use positioned::Positioned;

use std::fs::File;
use std::io;

use crate::os;

#[cfg(target_endian = "big")]
compile_error!("a journal's words are little-endian; this platform would have to swap them");

/// An array of words. Positions beyond [`words`](Medium::words) are an error, or a panic.
pub(crate) trait Medium: Send + Sync {
    /// Words that may be read or written now.
    fn words(&self) -> io::Result<usize>;
    /// Makes room. What is new reads as zero.
    fn grow(&self, words: usize) -> io::Result<()>;
    /// In one order with `publish` and `exchange`, as `read` is.
    fn load(&self, at: usize) -> io::Result<u64>;
    /// Release.
    fn store(&self, at: usize, value: u64) -> io::Result<()>;
    /// A store that no later load of this thread overtakes.
    fn publish(&self, at: usize, value: u64) -> io::Result<()>;
    /// `Ok(Err(found))` where the word was another.
    fn exchange(&self, at: usize, old: u64, new: u64) -> io::Result<Result<(), u64>>;
    /// Adds, and returns what was there before.
    fn add(&self, at: usize, more: u64) -> io::Result<u64>;
    /// Words that nobody else writes, and that a later `store` or `publish` makes known.
    fn write(&self, at: usize, words: &[u64]) -> io::Result<()>;
    /// Words that somebody may be writing: the reader has to check what it got.
    fn read(&self, at: usize, words: &mut [u64]) -> io::Result<()>;
    /// Keeps every other writer of the same file, in whatever process, out of the same section.
    fn exclusively<T>(&self, section: impl FnOnce() -> T) -> io::Result<T>;
    /// Returns when everything written before is on the device.
    fn sync(&self) -> io::Result<()>;
}

/// A file, by whichever way is safe on its file system.
pub(crate) enum FileMedium {
    Mapped(Mapped),
    Positioned(Positioned),
    /// One that dies, or loses power, when it is told.
    #[cfg(all(test, not(epilogue_loom)))]
    Faulty(std::sync::Arc<faulty::Faulty>),
}

impl FileMedium {
    /// Maps a new file where that is safe; else reads and writes it at positions.
    pub(crate) fn choose(file: File, words_max: usize, mapping: bool) -> io::Result<FileMedium> {
        // An address space that is limited, or a file system that cannot map, is no reason to fail.
        let mapped = mapping && os::maps_safely(&file)?;
        match mapped.then(|| Mapped::new(&file, words_max)) {
            Some(Ok(mapped)) => Ok(FileMedium::Mapped(mapped)),
            _ => Ok(FileMedium::Positioned(Positioned::new(file))),
        }
    }

    /// Uses a file as its other writers do.
    pub(crate) fn join(file: File, words_max: usize, mapped: bool) -> io::Result<FileMedium> {
        Ok(if mapped {
            FileMedium::Mapped(Mapped::new(&file, words_max)?)
        } else {
            FileMedium::Positioned(Positioned::new(file))
        })
    }

    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, FileMedium::Mapped(_))
    }

    pub(crate) fn file(&self) -> &File {
        match self {
            FileMedium::Mapped(medium) => medium.file(),
            FileMedium::Positioned(medium) => medium.file(),
            #[cfg(all(test, not(epilogue_loom)))]
            FileMedium::Faulty(_) => unreachable!("it has no file"),
        }
    }
}

macro_rules! either {
    ($self:ident, $medium:ident => $call:expr) => {
        match $self {
            FileMedium::Mapped($medium) => $call,
            FileMedium::Positioned($medium) => $call,
            #[cfg(all(test, not(epilogue_loom)))]
            FileMedium::Faulty($medium) => $call,
        }
    };
}

impl Medium for FileMedium {
    fn words(&self) -> io::Result<usize> {
        either!(self, medium => medium.words())
    }
    fn grow(&self, words: usize) -> io::Result<()> {
        either!(self, medium => medium.grow(words))
    }
    #[inline]
    fn load(&self, at: usize) -> io::Result<u64> {
        either!(self, medium => medium.load(at))
    }
    #[inline]
    fn store(&self, at: usize, value: u64) -> io::Result<()> {
        either!(self, medium => medium.store(at, value))
    }
    #[inline]
    fn publish(&self, at: usize, value: u64) -> io::Result<()> {
        either!(self, medium => medium.publish(at, value))
    }
    #[inline]
    fn exchange(&self, at: usize, old: u64, new: u64) -> io::Result<Result<(), u64>> {
        either!(self, medium => medium.exchange(at, old, new))
    }
    #[inline]
    fn add(&self, at: usize, more: u64) -> io::Result<u64> {
        either!(self, medium => medium.add(at, more))
    }
    #[inline]
    fn write(&self, at: usize, words: &[u64]) -> io::Result<()> {
        either!(self, medium => medium.write(at, words))
    }
    fn read(&self, at: usize, words: &mut [u64]) -> io::Result<()> {
        either!(self, medium => medium.read(at, words))
    }
    fn exclusively<T>(&self, section: impl FnOnce() -> T) -> io::Result<T> {
        either!(self, medium => medium.exclusively(section))
    }
    fn sync(&self) -> io::Result<()> {
        either!(self, medium => medium.sync())
    }
}
