//! The journal: what is owed, on record where neither `kill -9` nor a power cut reaches it.
//!
//! A record is a few stores into a shared mapping of a file. The mapping is the page cache, so it is
//! there for every other process the moment the stores are done, whatever becomes of the writer; only
//! a power cut needs a flush of the device, and those who need one share it.
//!
//! # Guarantees
//!
//! 1. What [`register`](Journal::register) returned `Ok` for is on record: after any death of the
//!    process with [`Tier::Process`], after a power cut with [`Tier::Power`].
//! 2. What [`disarm`](Journal::disarm) returned `Disarmed` for will not run, within the same reach.
//! 3. A record is read whole or not at all. A slot that is torn, forged in another's arguments, or left
//!    from the file's earlier life is never taken for one.
//! 4. Newest first is right across all threads and processes that write.
//! 5. Of several payers one is in force: whoever was [replaced](Journal::take_over) can note nothing.
//! 6. A device that refuses a flush is not asked to lie about it by asking again.
//!
//! # What this crate does not do
//!
//! It runs nothing, watches nothing, and never reads a clock: it is bytes on disk. Two machines cannot
//! share one. A journal that another process cuts short while it is mapped kills its reader with
//! SIGBUS; only its own user could do that.
//!
//! The format is in `docs/journal-format.md`, complete enough to write a reader in another language.
//!
//! # Examples
//!
//! ```
//! use epilogue_journal::{Disarm, Journal, NewMeta, Record, Tier};
//!
//! # let dir = std::env::temp_dir().join(format!("epilogue-journal-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&dir)?;
//! let path = dir.join("journal");
//! let journal = Journal::create(&path, NewMeta::default(), true)?;
//! let record = |body| Record { scope: 1, time_ms: 0, body, tier: Tier::Process };
//! let lock = journal.register(&record(b"unlock"))?;
//! journal.register(&record(b"remove the spool"))?;
//! assert_eq!(journal.disarm(lock)?, Disarm::Disarmed);
//! drop(journal);                                          // or: the process is killed
//!
//! let found = Journal::open(&path)?.scan()?;
//! let owed: Vec<_> = found.open().map(|entry| entry.body.as_slice()).collect();
//! assert_eq!(owed, [b"remove the spool"]);
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod commit;
mod error;
mod header;
mod journal;
mod layout;
mod log;
mod medium;
mod os;
mod scan;
mod slot;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod word;

pub use error::JournalError;
pub use header::{Meta, NewMeta, Tier};
pub use journal::{Disarm, Ended, Generation, Journal, Paid, ProcessId, Record, Registered};
pub use scan::{Entry, Scan};
pub use slot::BODY_MAX;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
pub use store::Store;
pub use word::{Phase, State};
