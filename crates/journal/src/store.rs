//! What a journal does, as a trait: for stores that are not a file on this machine.

use crate::error::JournalError;
use crate::journal::{Disarm, Generation, Journal, Paid, ProcessId, Record};
use crate::scan::Entry;

/// Somewhere to keep what is owed. A [`Journal`] is one; so is a database that several machines share.
///
/// The words of [`Journal`] apply: what is registered is started at least once unless it is disarmed, one
/// generation of payers is in force at a time, and a payer that was replaced can note nothing.
pub trait Store: Send + Sync {
    /// As [`Journal::register`]. Returns the id.
    ///
    /// # Errors
    ///
    /// As there.
    fn register(&self, record: &Record<'_>) -> Result<u64, JournalError>;

    /// As [`Journal::amend`].
    ///
    /// # Errors
    ///
    /// As there.
    fn amend(&self, id: u64, time_ms: u64, body: &[u8]) -> Result<(), JournalError>;

    /// As [`Journal::disarm_id`]; of a record that is not known any more: already.
    ///
    /// # Errors
    ///
    /// As there.
    fn disarm(&self, id: u64) -> Result<Disarm, JournalError>;

    /// Everything that is owed or kept, newest first.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn open_entries(&self) -> Result<Vec<Entry>, JournalError>;

    /// As [`Journal::take_over`].
    ///
    /// # Errors
    ///
    /// As there.
    fn take_over(&self, payer: ProcessId) -> Result<Generation, JournalError>;

    /// As [`Journal::begin_entry`].
    ///
    /// # Errors
    ///
    /// As there.
    fn begin(&self, generation: Generation, entry: &Entry) -> Result<Option<u8>, JournalError>;

    /// As [`Journal::finish_entry`].
    ///
    /// # Errors
    ///
    /// As there.
    fn finish(&self, generation: Generation, entry: &Entry, paid: Paid) -> Result<(), JournalError>;

    /// As [`Journal::park`].
    ///
    /// # Errors
    ///
    /// As there.
    fn park(&self, generation: Generation, entry: &Entry) -> Result<bool, JournalError>;

    /// As [`Journal::close`].
    ///
    /// # Errors
    ///
    /// As there.
    fn close(&self, generation: Generation) -> Result<bool, JournalError>;
}

impl Store for Journal {
    fn register(&self, record: &Record<'_>) -> Result<u64, JournalError> {
        Journal::register(self, record).map(|registered| registered.id())
    }

    fn amend(&self, id: u64, time_ms: u64, body: &[u8]) -> Result<(), JournalError> {
        Journal::amend(self, id, time_ms, body)
    }

    fn disarm(&self, id: u64) -> Result<Disarm, JournalError> {
        match self.disarm_id(id) {
            Err(JournalError::NoSuchRecord { .. }) => Ok(Disarm::Already),
            disarmed => disarmed,
        }
    }

    fn open_entries(&self) -> Result<Vec<Entry>, JournalError> {
        let mut entries = self.scan()?.entries;
        entries.retain(|entry| entry.state.is_open());
        entries.reverse();
        Ok(entries)
    }

    fn take_over(&self, payer: ProcessId) -> Result<Generation, JournalError> {
        Journal::take_over(self, payer)
    }

    fn begin(&self, generation: Generation, entry: &Entry) -> Result<Option<u8>, JournalError> {
        self.begin_entry(generation, entry)
    }

    fn finish(&self, generation: Generation, entry: &Entry, paid: Paid) -> Result<(), JournalError> {
        self.finish_entry(generation, entry, paid)
    }

    fn park(&self, generation: Generation, entry: &Entry) -> Result<bool, JournalError> {
        Journal::park(self, generation, entry)
    }

    fn close(&self, generation: Generation) -> Result<bool, JournalError> {
        Journal::close(self, generation)
    }
}
