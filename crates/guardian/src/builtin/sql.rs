//! One SQL statement, once: in a transaction with a note that it was done.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::secret::SecretRef;

/// Runs a statement in a database, with the record's key noted in the same transaction in the table
/// `epilogue_done`: where that is there already, the statement is not run again.
///
/// The database is named by a secret: `postgres://…`, without TLS, or `sqlite:///PATH`, as sqlx and others write it: with
/// `%20` for a blank, and what comes after a `?` left aside. A database file that is not there is not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlStatement {
    /// Where the database's address is.
    pub database: SecretRef,
    /// The statement, with `$1`, `$2` … for its parameters.
    pub statement: String,
    /// Its parameters, as text: in PostgreSQL write `$1::bigint` where another type is needed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS epilogue_done (key text PRIMARY KEY)";

impl Action for SqlStatement {
    const NAME: &'static str = "epilogue.sql";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let database = self.database.resolve()?;
        let address = database.expose();
        if let Some(path) = address.strip_prefix("sqlite:") {
            return self.in_sqlite(&file_of(path)?, cx);
        }
        if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            return self.in_postgres(address, cx);
        }
        Err(ActionError::park("the database's address begins with neither postgres:// nor sqlite:///"))
    }

    fn describe(&self) -> String {
        self.statement.clone()
    }
}

/// The file of an address: from the root, because nobody knows in which directory it will be looked for.
fn file_of(address: &str) -> Result<PathBuf, ActionError> {
    let path = address.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err(ActionError::park("the database's file is not written as sqlite:///PATH"));
    }
    Ok(PathBuf::from(OsString::from_vec(decoded(path))))
}

/// A `%` without two digits is one.
fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        let digits = match (byte, after) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high).zip(digit(low)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
            }
            _ => None,
        };
        decoded.push(digits.unwrap_or(*byte));
        rest = if digits.is_some() { &after[2..] } else { after };
    }
    decoded
}

impl SqlStatement {
    fn in_sqlite(&self, file: &Path, cx: &ActionCx) -> Result<(), ActionError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = rusqlite::Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(cx.remaining())?;
        connection.execute_batch(TABLE)?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let new = transaction.execute("INSERT OR IGNORE INTO epilogue_done VALUES (?1)", [cx.key()])?;
        if new == 1 {
            transaction.execute(&self.statement, rusqlite::params_from_iter(&self.parameters)).map_err(
                |error| match error {
                    rusqlite::Error::SqliteFailure(failure, _)
                        if [rusqlite::ErrorCode::DatabaseBusy, rusqlite::ErrorCode::DatabaseLocked]
                            .contains(&failure.code) =>
                    {
                        error.into()
                    }
                    error => ActionError::park(error.to_string()),
                },
            )?;
        }
        Ok(transaction.commit()?)
    }

    fn in_postgres(&self, address: &str, cx: &ActionCx) -> Result<(), ActionError> {
        let mut config: postgres::Config = address.parse().map_err(|error: postgres::Error| {
            ActionError::park(format!("the database's address: {error}"))
        })?;
        config.connect_timeout(cx.remaining());
        let mut client = config.connect(postgres::NoTls)?;
        let limit = cx.remaining().as_millis().max(100);
        client.batch_execute(&format!("SET statement_timeout = {limit}"))?;
        let mut transaction = client.transaction()?;
        // Two that make it at once: one of them fails, and tries again.
        transaction.batch_execute(TABLE)?;
        let new = transaction
            .execute("INSERT INTO epilogue_done VALUES ($1) ON CONFLICT DO NOTHING", &[&cx.key()])?;
        if new == 1 {
            let parameters: Vec<&(dyn postgres::types::ToSql + Sync)> =
                self.parameters.iter().map(|p| p as &(dyn postgres::types::ToSql + Sync)).collect();
            transaction.execute(&self.statement, &parameters).map_err(|error| {
                // A statement that cannot be run now never can; a conflict can be tried again.
                let again = error.code().is_none_or(|code| {
                    ["40", "53", "55", "57", "08"].iter().any(|class| code.code().starts_with(class))
                });
                let words = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
                if again { ActionError::retry(words) } else { ActionError::park(words) }
            })?;
        }
        Ok(transaction.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_file_is_written_as_others_write_it() {
        let file = |address: &str| file_of(address).ok();
        assert_eq!(file("///srv/my%20db?mode=rwc"), Some("/srv/my db".into()));
        assert_eq!(file("///srv/db"), Some("/srv/db".into()));
        assert_eq!(file("/srv/100%25-50%"), Some("/srv/100%-50%".into()));
        assert_eq!(file("///srv/%zz"), Some("/srv/%zz".into()));
        for wrong in ["//db", "db", ""] {
            assert_eq!(file(wrong), None, "{wrong:?}");
        }
    }
}
