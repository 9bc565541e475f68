//! A sqlx pool that knows who holds its connections.
//!
//! sqlx closes a pool by waiting for every connection that is held, for ever if need be, and cannot tell who holds it.
//! Here each is taken down with its place in the source.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use epilogue_process::{Error, Part, Started};
use sqlx::pool::PoolConnection;
use sqlx::{Connection, Database};

/// A pool (sqlx's) as a part. Its start takes one connection, so that a database that is not there is an error of the start,
/// after the pool's own `acquire_timeout` (30 s unless set), and says why;
/// its stop waits for what is held. What is still held at its deadline is in the report, each with the place where
/// it was taken; a transaction that is not committed by then is undone by the database, when the connection goes with
/// the process.
///
/// # Examples
///
/// ```no_run
/// # use epilogue_adapters::sqlx_pool;
/// # use epilogue_process::{App, Error};
/// # async fn body(app: &App) -> Result<(), Error> {
/// let options = sqlx::postgres::PgPoolOptions::new().max_connections(8);
/// let pool = options.connect_lazy("postgres://orders@localhost/orders")?;
/// let pool = app.start(sqlx_pool("database", pool)).await?;
/// let mut transaction = pool.begin().await?;
/// sqlx::query("insert into orders default values").execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
pub fn sqlx_pool<DB: Database>(name: impl Into<String>, pool: sqlx::Pool<DB>) -> SqlxPool<DB> {
    SqlxPool { name: name.into(), pool, cap: None }
}

/// A pool that has not started; see [`sqlx_pool`].
#[must_use = "nothing closes it until it is started: app.start(sqlx_pool(…)).await?"]
pub struct SqlxPool<DB: Database> {
    name: String,
    pool: sqlx::Pool<DB>,
    cap: Option<Duration>,
}

impl<DB: Database> SqlxPool<DB> {
    /// How long its stop waits at most for what is held: as long as the budget allows unless set.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.cap = Some(cap);
        self
    }
}

/// A running pool. Clones are of the same one.
pub struct Pool<DB: Database> {
    pool: sqlx::Pool<DB>,
    holders: Arc<Holders>,
}

impl<DB: Database> Clone for Pool<DB> {
    fn clone(&self) -> Self {
        Pool { pool: self.pool.clone(), holders: Arc::clone(&self.holders) }
    }
}

impl<DB: Database> Pool<DB> {
    /// A connection.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Pool::acquire`].
    ///
    /// # Cancel safety
    ///
    /// As [`sqlx::Pool::acquire`].
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<Held<DB>, sqlx::Error>> + Send + use<DB> {
        let (place, pool, holders) = (Location::caller(), self.pool.clone(), Arc::clone(&self.holders));
        async move {
            let waits = holders.waits(place, "connection");
            let connection = pool.acquire().await?;
            Ok(Held { connection, _place: waits.has_it() })
        }
    }

    /// A transaction. Dropped without a commit, it is undone.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Pool::begin`].
    ///
    /// # Cancel safety
    ///
    /// As [`sqlx::Pool::begin`].
    #[track_caller]
    pub fn begin(&self) -> impl Future<Output = Result<Transaction<DB>, sqlx::Error>> + Send + use<DB> {
        let (place, pool, holders) = (Location::caller(), self.pool.clone(), Arc::clone(&self.holders));
        async move {
            let waits = holders.waits(place, "transaction");
            let transaction = pool.begin().await?;
            Ok(Transaction { transaction, place: waits.has_it() })
        }
    }

    /// sqlx's own, for what takes it: whoever holds a connection of it cannot be named.
    pub fn as_sqlx(&self) -> &sqlx::Pool<DB> {
        &self.pool
    }

    /// Who holds a connection, or waits for one, and for how long.
    pub fn holders(&self) -> Vec<String> {
        holders(&self.pool, &self.holders)
    }
}

fn holders<DB: Database>(pool: &sqlx::Pool<DB>, holders: &Holders) -> Vec<String> {
    let mut told = holders.tell();
    let (held, known) = (held(pool), holders.count());
    if held > known {
        // Whoever waits may be about to have one.
        let or = if told.len() > known { ", or being opened or looked at" } else { "" };
        told.push(format!("{} more, held by users of sqlx's own pool{or}", held - known));
    }
    told
}

/// How many connections are not idle.
fn held<DB: Database>(pool: &sqlx::Pool<DB>) -> usize {
    // Of a closed pool sqlx still counts as idle what it has closed.
    let idle = if pool.is_closed() { 0 } else { pool.num_idle() };
    (pool.size() as usize).saturating_sub(idle)
}

impl<DB: Database> Part for SqlxPool<DB> {
    type Handle = Pool<DB>;

    fn name(&self) -> String {
        self.name.clone()
    }

    async fn start(self) -> Result<Started<Pool<DB>>, Error> {
        let SqlxPool { pool, cap, .. } = self;
        let mut first = match pool.acquire().await {
            Ok(first) => first,
            Err(error) => return Err(why(&pool, error).await),
        };
        first.ping().await?;
        drop(first);
        let handle = Pool { pool, holders: Arc::default() };
        let (closes, asked) = (handle.clone(), handle.clone());
        let started = Started::new(handle, async move |cx| {
            let held = held(&closes.pool);
            closes.pool.close().await;
            // sqlx 0.8 takes each idle connection that it closes for one that was held and came back, so it may be
            // done before those that are held are back; and one that is looked at just then, to become idle, is
            // closed by the next call alone.
            while closes.pool.size() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                closes.pool.close().await;
            }
            if held > 0 {
                cx.note(format!("waited for {held} held"));
            }
            Ok(())
        });
        let started = started.status(move || asked.holders());
        Ok(match cap {
            Some(cap) => started.cap(cap),
            None => started,
        })
    }
}

/// A pool that waited in vain does not say what for.
async fn why<DB: Database>(pool: &sqlx::Pool<DB>, error: sqlx::Error) -> Error {
    let asked = async { <DB::Connection as Connection>::connect_with(&pool.connect_options()).await };
    match error {
        sqlx::Error::PoolTimedOut => match tokio::time::timeout(Duration::from_secs(2), asked).await {
            Ok(Err(cause)) => Error::from(cause).context(error.to_string()),
            _ => error.into(),
        },
        error => error.into(),
    }
}

/// A connection that is held. Dropped, it goes back to its pool.
pub struct Held<DB: Database> {
    connection: PoolConnection<DB>,
    _place: Place,
}

impl<DB: Database> Deref for Held<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Database> DerefMut for Held<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}

/// A transaction that is under way.
pub struct Transaction<DB: Database> {
    transaction: sqlx::Transaction<'static, DB>,
    place: Place,
}

impl<DB: Database> Transaction<DB> {
    /// Makes its changes last.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Transaction::commit`].
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        let _place = self.place;
        self.transaction.commit().await
    }

    /// sqlx's own, for what takes it.
    pub fn as_sqlx(&mut self) -> &mut sqlx::Transaction<'static, DB> {
        &mut self.transaction
    }

    /// Undoes its changes.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Transaction::rollback`].
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        let _place = self.place;
        self.transaction.rollback().await
    }
}

impl<DB: Database> Deref for Transaction<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.transaction
    }
}

impl<DB: Database> DerefMut for Transaction<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.transaction
    }
}

/// Who holds what, oldest first.
#[derive(Default)]
struct Holders(Mutex<(u64, BTreeMap<u64, Holder>)>);

struct Holder {
    what: &'static str,
    /// It has none yet.
    waits: bool,
    place: &'static Location<'static>,
    since: Instant,
}

impl Holders {
    /// Somebody waits for one, and will [have it](Place::has_it).
    fn waits(self: Arc<Self>, place: &'static Location<'static>, what: &'static str) -> Place {
        let id = {
            let mut all = self.lock();
            all.0 += 1;
            let id = all.0;
            all.1.insert(id, Holder { what, waits: true, place, since: Instant::now() });
            id
        };
        Place { holders: self, id }
    }

    /// How many hold one.
    fn count(&self) -> usize {
        self.lock().1.values().filter(|holder| !holder.waits).count()
    }

    fn tell(&self) -> Vec<String> {
        self.lock().1.values().map(Holder::to_string).collect()
    }

    fn lock(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Holder>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, held) = if self.waits { ("a wait for a", "for") } else { ("a", "held for") };
        write!(f, "{a} {} of {}, {held} {:.1} s", self.what, self.place, self.since.elapsed().as_secs_f64())
    }
}

/// Until it is dropped somebody holds it.
struct Place {
    holders: Arc<Holders>,
    id: u64,
}

impl Place {
    /// What was waited for is there, from now on.
    fn has_it(self) -> Place {
        if let Some(holder) = self.holders.lock().1.get_mut(&self.id) {
            (holder.waits, holder.since) = (false, Instant::now());
        }
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.holders.lock().1.remove(&self.id);
    }
}
