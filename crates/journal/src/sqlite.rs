//! The same promises over SQLite: what a journal is compared with, operation by operation.
//!
//! Two hundred times slower for a registration, and fast enough for many a program; it is here because
//! everybody trusts it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::JournalError;
use crate::journal::{Disarm, Generation, Paid, ProcessId, Record, settled};
use crate::scan::Entry;
use crate::store::Store;
use crate::word::State;

/// A store in an SQLite database.
pub struct SqliteStore(Mutex<Connection>);

impl SqliteStore {
    /// Opens the database, and makes its tables if they are not there. A commit survives a death of the
    /// process; with `synchronous = FULL`, set by `power`, a power cut too.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn open(path: &Path, power: bool) -> Result<SqliteStore, JournalError> {
        let connection = Connection::open(path).map_err(database)?;
        let synchronous = if power { "FULL" } else { "NORMAL" };
        connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
        connection.pragma_update(None, "synchronous", synchronous).map_err(database)?;
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS run (one INTEGER PRIMARY KEY CHECK (one = 1), phase INTEGER, generation INTEGER);
                 INSERT OR IGNORE INTO run VALUES (1, 0, 0);
                 CREATE TABLE IF NOT EXISTS actions (
                     id INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER, time_ms INTEGER, state INTEGER,
                     attempts INTEGER, generation INTEGER, body BLOB, amendment BLOB);",
            )
            .map_err(database)?;
        Ok(SqliteStore(Mutex::new(connection)))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn database(error: rusqlite::Error) -> JournalError {
    JournalError::Database { message: error.to_string() }
}

fn run(connection: &Connection) -> Result<(i64, i64), JournalError> {
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    connection.query_row("SELECT phase, generation FROM run", [], row).map_err(database)
}

fn fence(connection: &Connection, generation: Generation) -> Result<(), JournalError> {
    let (_, theirs) = run(connection)?;
    if theirs == signed(generation.number()) {
        Ok(())
    } else {
        Err(JournalError::Fenced { ours: generation.number(), theirs: unsigned(theirs) })
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn state_of(connection: &Connection, id: u64) -> Result<Option<State>, JournalError> {
    let row = |row: &rusqlite::Row<'_>| row.get(0);
    let found = connection.query_row("SELECT state FROM actions WHERE id = ?1", [signed(id)], row);
    let code = found.optional().map_err(database)?;
    Ok(code.map(unsigned).and_then(State::from_code))
}

impl Store for SqliteStore {
    fn register(&self, record: &Record<'_>) -> Result<u64, JournalError> {
        let connection = self.lock();
        let transaction = connection.unchecked_transaction().map_err(database)?;
        if run(&transaction)?.0 != 0 {
            return Err(JournalError::TooLate);
        }
        transaction
            .execute(
                "INSERT INTO actions (scope, time_ms, state, attempts, generation, body)
                 VALUES (?1, ?2, ?3, 0, 0, ?4)",
                params![signed(record.scope), signed(record.time_ms), State::Live as i64, record.body],
            )
            .map_err(database)?;
        let id = transaction.last_insert_rowid();
        transaction.commit().map_err(database)?;
        Ok(unsigned(id))
    }

    fn amend(&self, id: u64, _time_ms: u64, body: &[u8]) -> Result<(), JournalError> {
        let connection = self.lock();
        match state_of(&connection, id)? {
            Some(state) if state.is_open() => {}
            _ => return Err(JournalError::NoSuchRecord { id }),
        }
        connection
            .execute("UPDATE actions SET amendment = ?2 WHERE id = ?1", params![signed(id), body])
            .map_err(database)?;
        Ok(())
    }

    fn disarm(&self, id: u64) -> Result<Disarm, JournalError> {
        let connection = self.lock();
        let changed = connection
            .execute(
                "UPDATE actions SET state = ?2 WHERE id = ?1 AND state = ?3",
                params![signed(id), State::Disarmed as i64, State::Live as i64],
            )
            .map_err(database)?;
        if changed == 1 {
            return Ok(Disarm::Disarmed);
        }
        Ok(state_of(&connection, id)?.map_or(Disarm::Already, settled))
    }

    fn open_entries(&self) -> Result<Vec<Entry>, JournalError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare(
                "SELECT id, scope, time_ms, state, attempts, body, amendment FROM actions ORDER BY id DESC",
            )
            .map_err(database)?;
        let rows = statement
            .query_map([], |row| {
                let number = |column: usize| row.get(column).map(unsigned);
                let state = State::from_code(number(3)?);
                let entry = Entry::new(number(0)?, number(1)?, number(2)?, state, row.get(5)?);
                Ok(entry.with(row.get(4)?, row.get(6)?))
            })
            .map_err(database)?;
        let all: Result<Vec<Entry>, _> = rows.collect();
        Ok(all.map_err(database)?.into_iter().filter(|entry| entry.state.is_open()).collect())
    }

    fn take_over(&self, _payer: ProcessId) -> Result<Generation, JournalError> {
        let connection = self.lock();
        let row = |row: &rusqlite::Row<'_>| row.get(0);
        let generation: i64 = connection
            .query_row("UPDATE run SET phase = 1, generation = generation + 1 RETURNING generation", [], row)
            .map_err(database)?;
        Ok(Generation::of(unsigned(generation)))
    }

    fn begin(&self, generation: Generation, entry: &Entry) -> Result<Option<u8>, JournalError> {
        let connection = self.lock();
        let transaction = connection.unchecked_transaction().map_err(database)?;
        fence(&transaction, generation)?;
        let row = |row: &rusqlite::Row<'_>| row.get(0);
        let begun = transaction
            .query_row(
                "UPDATE actions SET state = ?2, attempts = attempts + 1, generation = ?3
                 WHERE id = ?1 AND (state IN (?4, ?5) OR (state = ?2 AND generation <> ?3)) RETURNING attempts",
                params![
                    signed(entry.id),
                    State::Running as i64,
                    signed(generation.number()),
                    State::Live as i64,
                    State::Failed as i64
                ],
                row,
            )
            .optional()
            .map_err(database)?;
        transaction.commit().map_err(database)?;
        Ok(begun)
    }

    fn finish(&self, generation: Generation, entry: &Entry, paid: Paid) -> Result<(), JournalError> {
        let connection = self.lock();
        fence(&connection, generation)?;
        let changed = connection
            .execute(
                "UPDATE actions SET state = ?2 WHERE id = ?1 AND state = ?3 AND generation = ?4",
                params![
                    signed(entry.id),
                    paid.state() as i64,
                    State::Running as i64,
                    signed(generation.number())
                ],
            )
            .map_err(database)?;
        if changed == 1 {
            return Ok(());
        }
        Err(JournalError::Fenced { ours: generation.number(), theirs: unsigned(run(&connection)?.1) })
    }

    fn park(&self, generation: Generation, entry: &Entry) -> Result<bool, JournalError> {
        let connection = self.lock();
        fence(&connection, generation)?;
        let changed = connection.execute(
            "UPDATE actions SET state = ?2 WHERE id = ?1 AND state IN (?3, ?4, ?5)",
            params![
                signed(entry.id),
                State::Parked as i64,
                State::Live as i64,
                State::Failed as i64,
                State::Running as i64
            ],
        );
        Ok(changed.map_err(database)? == 1)
    }

    fn close(&self, generation: Generation) -> Result<bool, JournalError> {
        let connection = self.lock();
        let changed = connection.execute(
            "UPDATE run SET phase = 2 WHERE phase = 1 AND generation = ?1",
            [signed(generation.number())],
        );
        Ok(changed.map_err(database)? == 1)
    }
}
