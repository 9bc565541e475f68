//! Why a journal could not be written or read.

use std::io;
use std::path::PathBuf;

/// Why a journal could not be made, opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file could not be created, opened, locked, read or written.
    #[error("journal {}: {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and is not a journal that this version can read.
    #[error("journal {}: {why}", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        why: String,
    },
    /// Somebody else could have written it: a journal is a program, so it is not obeyed.
    #[error("journal {}: not trusted: {why}", path.display())]
    NotTrusted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The body of a record is longer than a journal holds.
    #[error("the arguments take {len} bytes; a record holds {}", crate::BODY_MAX)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The journal has reached its size limit, and nothing in it can be given up.
    #[error("journal {}: full: {limit_mib} MiB of records are still owed", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_mib: u64,
    },
    /// The run is being paid, or has been: what is registered now would never run.
    #[error("too late: the scope is being paid")]
    TooLate,
    /// Another payer has taken over; what this one does counts no more.
    #[error("replaced by another payer (generation {theirs}, this one is {ours})")]
    Fenced {
        /// The generation of this payer.
        ours: u64,
        /// The one in force.
        theirs: u64,
    },
    /// There is no such record.
    #[error("no record {id}")]
    NoSuchRecord {
        /// Its id.
        id: u64,
    },
    /// A database that holds what is owed could not be asked, or said no.
    #[error("store: {message}")]
    Database {
        /// What it said.
        message: String,
    },
    /// This owner has not been able to renew its lease: somebody else may be paying what it owes.
    #[error("the lease is lost: another may be paying what this owner owes")]
    LeaseLost,
    /// The device has refused to keep what was written. What was on record before stays so; what was
    /// being recorded is not.
    #[error("journal {}: the device did not keep it ({source}); nothing was registered", path.display())]
    NotKept {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
