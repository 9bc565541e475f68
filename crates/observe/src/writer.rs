//! The writing side: a [`Recorder`] over a mapped file.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use epilogue_scope::record::{self, Finished, Recorder};
use memmap2::MmapMut;

use crate::layout::{self, header, state};
use crate::{EventKind, RING_ENV, RingError};

/// Starts recording to the file that [`RING_ENV`] names, if it is set. Returns whether this
/// process records.
///
/// The first process to create the file owns it: a child that inherited the variable records
/// nothing, so it cannot overwrite its parent's story. Calling it again does nothing.
///
/// # Errors
///
/// [`RingError::Io`] when the file cannot be created, given its 640 KiB, or mapped; the program runs
/// on unrecorded.
pub fn record_to_env() -> Result<bool, RingError> {
    let Some(path) = env::var_os(RING_ENV) else { return Ok(false) };
    let path = Path::new(&path);
    let io = |source| RingError::Io { path: path.display().to_string(), source };
    match Ring::create(path) {
        Ok(ring) => Ok(record::set_recorder(Box::leak(Box::new(ring))).is_ok()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io(error)),
    }
}

struct Ring {
    words: &'static [AtomicU64],
    cursor: AtomicU64,
}

impl Ring {
    fn create(path: &Path) -> std::io::Result<Ring> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        if let Err(error) = allocate(&file) {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        // SAFETY: the file was created by this call with `create_new`. Another process may read it
        // while it is mapped; it is accessed through atomics only, on both sides of this mapping.
        let map = unsafe { MmapMut::map_mut(&file)? };
        let ring = Ring { words: words_of(Box::leak(Box::new(map))), cursor: AtomicU64::new(0) };
        ring.words[header::PID].store(u64::from(std::process::id()), Ordering::Relaxed);
        ring.words[header::MAGIC].store(layout::MAGIC, Ordering::Release);
        Ok(ring)
    }

    fn claim(&self) -> Option<usize> {
        let slots = layout::PENDING_SLOTS as u64;
        let from = self.cursor.fetch_add(1, Ordering::Relaxed);
        (0..slots).map(|step| ((from + step) % slots) as usize).find(|&index| {
            self.words[layout::pending_slot(index)]
                .compare_exchange(state::FREE, state::CLAIMED, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })
    }

    fn event(&self, kind: EventKind, text: &[u64; layout::PENDING_TEXT_WORDS]) {
        let number = self.words[header::NEXT_EVENT].fetch_add(1, Ordering::Relaxed);
        let slot = layout::event_slot(number);
        // Taken out first: a writer that dies half-way leaves an empty slot, not a mixed one. A reader
        // of a living process may still see one that is being written.
        self.words[slot].store(0, Ordering::Release);
        self.words[slot + 1].store(monotonic_ns(), Ordering::Relaxed);
        self.words[slot + 2].store(kind.code(), Ordering::Relaxed);
        for (at, word) in text.iter().take(layout::EVENT_TEXT_WORDS).enumerate() {
            self.words[slot + 3 + at].store(*word, Ordering::Relaxed);
        }
        self.words[slot].store(number + 1, Ordering::Release);
    }
}

impl Recorder for Ring {
    fn registered(&self, name: &str, place: &Location<'_>) -> Option<NonZeroU64> {
        let text = text_words(name, place);
        self.event(EventKind::Registered, &text);
        let Some(index) = self.claim() else {
            self.words[header::UNNAMED].fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let slot = layout::pending_slot(index);
        self.words[slot + 1].store(monotonic_ns(), Ordering::Relaxed);
        for (at, word) in text.iter().enumerate() {
            self.words[slot + 2 + at].store(*word, Ordering::Relaxed);
        }
        self.words[slot].store(state::PENDING, Ordering::Release);
        NonZeroU64::new(index as u64 + 1)
    }

    fn finished(&self, token: NonZeroU64, how: Finished) {
        let (kind, total) = match how {
            Finished::Failed => (EventKind::Failed, header::FAILED),
            Finished::Panicked => (EventKind::Panicked, header::PANICKED),
            Finished::Abandoned => (EventKind::Abandoned, header::ABANDONED),
            Finished::Disarmed => (EventKind::Disarmed, header::DISARMED),
            _ => (EventKind::Ran, header::RAN),
        };
        let Ok(index) = usize::try_from(token.get() - 1) else { return };
        if index >= layout::PENDING_SLOTS {
            return;
        }
        let slot = layout::pending_slot(index);
        let text = std::array::from_fn(|at| self.words[slot + 2 + at].load(Ordering::Relaxed));
        self.event(kind, &text);
        self.words[total].fetch_add(1, Ordering::Relaxed);
        self.words[slot].store(state::FREE, Ordering::Release);
    }
}

/// Gives the file all its blocks now. A store into a hole of a mapped file kills the process with
/// SIGBUS when the disk is full; recording must never do that to the program.
fn allocate(file: &File) -> std::io::Result<()> {
    let length = libc::off_t::try_from(layout::BYTES).map_err(std::io::Error::other)?;
    // SAFETY: no memory is passed; the descriptor is open for writing.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) } {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

fn words_of(map: &'static MmapMut) -> &'static [AtomicU64] {
    let start = map.as_ptr().cast::<AtomicU64>();
    debug_assert!(start.is_aligned() && map.len() >= layout::BYTES);
    // SAFETY: a mapping is page-aligned, so aligned for words; it holds `BYTES` bytes, because the
    // file was sized so before it was mapped; every bit pattern is a valid AtomicU64; the mapping
    // was leaked, so it lives as long as the process; no other reference to it is used.
    unsafe { std::slice::from_raw_parts(start, layout::WORDS) }
}

/// `name @ file:line`, cut to what a slot holds. The file keeps its last components.
fn text_words(name: &str, place: &Location<'_>) -> [u64; layout::PENDING_TEXT_WORDS] {
    let mut text = Text { bytes: [0; layout::PENDING_TEXT_WORDS * 8], used: 0 };
    // The only error is "full": the text is then cut.
    let _ = std::fmt::Write::write_fmt(
        &mut text,
        format_args!("{name} @ {}:{}", short(place.file()), place.line()),
    );
    let mut words = [0; layout::PENDING_TEXT_WORDS];
    for (word, chunk) in words.iter_mut().zip(text.bytes.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*chunk);
    }
    words
}

fn short(file: &str) -> &str {
    let mut slashes = file.rmatch_indices('/').map(|(at, _)| at);
    match (slashes.next(), slashes.next(), slashes.next()) {
        (_, _, Some(third)) => &file[third + 1..],
        _ => file,
    }
}

struct Text {
    bytes: [u8; layout::PENDING_TEXT_WORDS * 8],
    used: usize,
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.used..];
        let taken = room.len().min(text.len());
        room[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        if taken < text.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

/// The clock of events: `CLOCK_MONOTONIC`, in nanoseconds, the same in every process of a machine.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // A monotonic clock is never negative.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Snapshot;

    fn ring(name: &str) -> (std::path::PathBuf, Ring) {
        let path = env::temp_dir().join(format!("epilogue-ring-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let ring = Ring::create(&path).unwrap();
        (path, ring)
    }

    #[test]
    fn what_is_registered_is_pending_until_finished_and_keeps_its_name() {
        let (path, ring) = ring("pending");
        let place = Location::caller();
        let first = ring.registered("database", place).unwrap();
        let second = ring.registered("listener", place).unwrap();
        ring.finished(second, Finished::Ran);
        let seen = Snapshot::read(&path).unwrap();
        assert_eq!((seen.totals.run(), seen.pending.len()), (1, 1));
        assert!(seen.pending[0].what.starts_with("database @ "), "{}", seen.pending[0].what);
        ring.finished(first, Finished::Failed);
        let seen = Snapshot::read(&path).unwrap();
        assert_eq!((seen.totals.run(), seen.totals.failed, seen.pending.len()), (2, 1, 0));
        let kinds: Vec<_> = seen.events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Registered, EventKind::Registered, EventKind::Ran, EventKind::Failed]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn totals_stay_right_when_the_ring_wraps_and_the_table_overflows() {
        let (path, ring) = ring("wrap");
        let place = Location::caller();
        let held: Vec<_> =
            (0..layout::PENDING_SLOTS).map(|_| ring.registered("held", place).unwrap()).collect();
        assert!(ring.registered("no room", place).is_none());
        for token in held {
            ring.finished(token, Finished::Ran);
        }
        for _ in 0..layout::EVENT_SLOTS {
            let token = ring.registered("short", place).unwrap();
            ring.finished(token, Finished::Disarmed);
        }
        let seen = Snapshot::read(&path).unwrap();
        assert_eq!(seen.totals.ran, layout::PENDING_SLOTS as u64);
        assert_eq!(seen.totals.disarmed, layout::EVENT_SLOTS as u64);
        assert_eq!(seen.totals.unnamed, 1);
        assert_eq!(seen.events.len(), layout::EVENT_SLOTS);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn long_names_are_cut_not_lost() {
        let (path, ring) = ring("long");
        ring.registered(&"x".repeat(500), Location::caller()).unwrap();
        let seen = Snapshot::read(&path).unwrap();
        assert_eq!(seen.pending[0].what.len(), layout::PENDING_TEXT_WORDS * 8);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn eight_threads_lose_no_registration() {
        let (path, ring) = ring("threads");
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..5_000 {
                        let token = ring.registered("t", Location::caller()).unwrap();
                        ring.finished(token, Finished::Ran);
                    }
                });
            }
        });
        let seen = Snapshot::read(&path).unwrap();
        assert_eq!((seen.totals.ran, seen.pending.len()), (40_000, 0));
        std::fs::remove_file(path).unwrap();
    }
}
