//! The ring: registrations and payments of cleanups, in a mapped file that outlives the process.
//!
//! A store into a shared mapping is in the page cache the moment it is done, so a reader sees it
//! even when the writer was killed in the very next instruction. That is how `epilogue prove`
//! tells which cleanups of a dead process had run.
//!
//! The file has three parts: totals that never wrap, a table of what is pending with its names,
//! and a ring of the latest events with their times.
//!
//! # What this crate does not do
//!
//! It survives the process, not the machine: nothing is synced to disk, so a power loss may take
//! the file with it. It does not run cleanups of the dead; it only says which are owed.

mod layout;
mod snapshot;
mod writer;

pub use snapshot::{Event, EventKind, Pending, Snapshot, Totals};
pub use writer::{monotonic_ns, record_to_env};

/// The environment variable that names the file to record to. Unset: nothing is recorded.
pub const RING_ENV: &str = "EPILOGUE_RING";

/// Why a ring could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The file could not be created, sized, mapped or read.
    #[error("ring {path}: {source}")]
    Io {
        /// The file as it was named.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is there and is not a ring, or is cut off.
    #[error("ring {path}: not an epilogue ring ({why})")]
    NotARing {
        /// The file as it was named.
        path: String,
        /// What was found instead.
        why: &'static str,
    },
}
