//! The database: SQLite, embedded.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// What a customer wants.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NewOrder {
    /// Who pays.
    pub customer: String,
    /// What of.
    pub item: String,
    /// How many; at least 1.
    pub quantity: u32,
}

/// An order on record.
#[derive(Clone, Debug, Serialize)]
pub struct Order {
    /// Its number.
    pub id: i64,
    /// What was ordered.
    #[serde(flatten)]
    pub order: NewOrder,
}

/// The orders, and the messages that are still to be sent about them. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Mutex<Option<Connection>>>);

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database said no.
    #[error("database: {0}")]
    Database(#[from] rusqlite::Error),
    /// The store was closed before.
    #[error("the database is closed")]
    Closed,
    /// The thread that asked the database is gone.
    #[error("the database thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl Store {
    /// Opens the database, and makes its tables if they are not there.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An order is acknowledged after its commit: the commit must survive a power loss.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS orders (
                 id INTEGER PRIMARY KEY, customer TEXT NOT NULL, item TEXT NOT NULL, quantity INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS outbox (
                 id INTEGER PRIMARY KEY, order_id INTEGER NOT NULL REFERENCES orders(id));",
        )?;
        Ok(Store(Arc::new(Mutex::new(Some(connection)))))
    }

    /// Records an order and the message about it, in one transaction. Returns after the commit.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing was recorded.
    pub async fn add(&self, order: NewOrder) -> Result<i64, StoreError> {
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            transaction.execute(
                "INSERT INTO orders (customer, item, quantity) VALUES (?1, ?2, ?3)",
                params![order.customer, order.item, order.quantity],
            )?;
            let id = transaction.last_insert_rowid();
            transaction.execute("INSERT INTO outbox (order_id) VALUES (?1)", [id])?;
            transaction.commit()?;
            Ok(id)
        })
        .await
    }

    /// The order with this number.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn get(&self, id: i64) -> Result<Option<Order>, StoreError> {
        self.with(move |connection| {
            let row = |row: &rusqlite::Row<'_>| {
                let order = NewOrder { customer: row.get(0)?, item: row.get(1)?, quantity: row.get(2)? };
                Ok(Order { id, order })
            };
            Ok(connection
                .query_row("SELECT customer, item, quantity FROM orders WHERE id = ?1", [id], row)
                .optional()?)
        })
        .await
    }

    /// Up to `limit` messages that are still to be sent: their number and their order's.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn unsent(&self, limit: u32) -> Result<Vec<(i64, i64)>, StoreError> {
        self.with(move |connection| {
            let mut query = connection.prepare("SELECT id, order_id FROM outbox ORDER BY id LIMIT ?1")?;
            let rows = query.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Forgets every message up to this one: they were sent.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn sent_up_to(&self, message: i64) -> Result<(), StoreError> {
        self.with(move |connection| {
            connection.execute("DELETE FROM outbox WHERE id <= ?1", [message])?;
            Ok(())
        })
        .await
    }

    /// Closes the database: checkpoints the log and lets go of the file.
    ///
    /// # Errors
    ///
    /// What SQLite says. A second close is no error.
    pub async fn close(&self) -> Result<(), StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || match this.lock().take() {
            Some(connection) => connection.close().map_err(|(_, error)| error.into()),
            None => Ok(()),
        })
        .await?
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || match this.lock().as_mut() {
            Some(connection) => work(connection),
            None => Err(StoreError::Closed),
        })
        .await?
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        // A panic inside SQLite's wrapper leaves a usable connection: transactions roll back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
