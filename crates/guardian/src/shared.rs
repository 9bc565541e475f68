//! What is owed, where several machines see it: PostgreSQL. When a host dies, another pays.
//!
//! An owner holds a lease and renews it every third of its time. When it has not been able to, it must
//! stop: it *fences itself* a little before the lease ends by the database's clock, which it measures by a
//! clock of its own that also runs while the machine sleeps. A payer claims an owner whose lease is over, gets the
//! next number of one sequence as its generation, holds a lease in turn, and every step it notes names
//! that generation: what a replaced payer notes changes nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use epilogue_journal::{
    Disarm, Ended, Entry, Generation, JournalError, Paid, ProcessId, Record, State, Store,
};
use postgres::{Client, NoTls};

use crate::os;
use crate::pay::{self, About, Options, Report};

/// Of a lease, how much is kept back for clocks that differ: an eighth.
const DRIFT: u32 = 8;

/// The actions of one owner, in a database that others see.
pub struct SharedStore {
    client: Mutex<Client>,
    owner: String,
    lease: Arc<Lease>,
}

/// A right that ends by itself.
struct Lease {
    address: String,
    owner: String,
    ttl: Duration,
    /// The generation by which it is held: 0 for the owner itself.
    generation: u64,
    /// Until when it surely holds, on this machine's clock, in milliseconds.
    until: AtomicU64,
}

const SCHEMA: &str = "
    CREATE SEQUENCE IF NOT EXISTS epilogue_fence;
    CREATE TABLE IF NOT EXISTS epilogue_owners (
        owner text PRIMARY KEY, phase smallint NOT NULL DEFAULT 0, generation bigint NOT NULL DEFAULT 0,
        lease_until timestamptz NOT NULL, payer text);
    CREATE TABLE IF NOT EXISTS epilogue_actions (
        id bigserial PRIMARY KEY, owner text NOT NULL REFERENCES epilogue_owners ON DELETE CASCADE,
        scope bigint NOT NULL, time_ms bigint NOT NULL, state smallint NOT NULL, attempts smallint NOT NULL,
        generation bigint NOT NULL, body bytea NOT NULL, amendment bytea);
    CREATE INDEX IF NOT EXISTS epilogue_actions_owner ON epilogue_actions (owner, id);";

impl SharedStore {
    /// Becomes an owner, with a lease of `ttl`. `owner` must be a name that nobody has or had: a UUID, a pod's
    /// uid. The tables are made if they are not there. Without TLS.
    ///
    /// # Errors
    ///
    /// [`JournalError::Database`].
    pub fn own(address: &str, owner: &str, ttl: Duration) -> Result<SharedStore, JournalError> {
        let asked = os::boot_clock_ms();
        let mut client = connect(address, ttl)?;
        // One at a time: two that make the same table at once would disturb each other.
        let made =
            client.batch_execute(&format!("BEGIN; SELECT pg_advisory_xact_lock(7311742); {SCHEMA} COMMIT;"));
        made.map_err(database)?;
        client
            .execute(
                "INSERT INTO epilogue_owners (owner, lease_until) VALUES ($1, now() + $2::float8 * interval '1 s')",
                &[&owner, &ttl.as_secs_f64()],
            )
            .map_err(database)?;
        Ok(SharedStore::holding(client, address, owner, ttl, 0, asked))
    }

    /// Claims an owner whose lease is over, if there is one that nobody else is claiming.
    ///
    /// # Errors
    ///
    /// [`JournalError::Database`].
    pub fn claim(
        address: &str,
        payer: &str,
        ttl: Duration,
    ) -> Result<Option<(SharedStore, Generation)>, JournalError> {
        let asked = os::boot_clock_ms();
        let mut client = connect(address, ttl)?;
        let claimed = client
            .query_opt(
                "UPDATE epilogue_owners SET generation = nextval('epilogue_fence'), phase = 1, payer = $1,
                        lease_until = now() + $2::float8 * interval '1 s'
                 WHERE owner = (SELECT owner FROM epilogue_owners o WHERE lease_until < now() AND (phase < 2 AND
                                (phase = 0 OR EXISTS (SELECT 1 FROM epilogue_actions a
                                    WHERE a.owner = o.owner AND a.state IN (1, 2, 3, 10))))
                                ORDER BY lease_until FOR UPDATE SKIP LOCKED LIMIT 1)
                 RETURNING owner, generation",
                &[&payer, &ttl.as_secs_f64()],
            )
            .map_err(database)?;
        let Some(row) = claimed else { return Ok(None) };
        let (owner, generation) = (row.get::<_, String>(0), unsigned(row.get(1)));
        let store = SharedStore::holding(client, address, &owner, ttl, generation, asked);
        Ok(Some((store, Generation::of(generation))))
    }

    fn holding(
        client: Client,
        address: &str,
        owner: &str,
        ttl: Duration,
        generation: u64,
        asked: u64,
    ) -> SharedStore {
        let lease = Arc::new(Lease {
            address: address.to_owned(),
            owner: owner.to_owned(),
            ttl,
            generation,
            until: AtomicU64::new(asked + sure(ttl)),
        });
        Lease::renew_in_background(&lease);
        SharedStore { client: Mutex::new(client), owner: owner.to_owned(), lease }
    }

    /// Whether the lease surely holds. When it does not, whatever is done for this owner must stop: another
    /// may be paying what it owes.
    pub fn is_held(&self) -> bool {
        self.lease.is_held()
    }

    /// The owner.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The owner has paid everything itself, or disarmed it.
    ///
    /// # Errors
    ///
    /// [`JournalError::LeaseLost`] when another has it by now, [`JournalError::Database`].
    pub fn leave(self) -> Result<(), JournalError> {
        let left = self.client().execute(
            "DELETE FROM epilogue_owners o WHERE owner = $1 AND generation = 0 AND NOT EXISTS
                 (SELECT 1 FROM epilogue_actions a WHERE a.owner = o.owner AND a.state IN (1, 2, 3, 4, 10))",
            &[&self.owner],
        );
        if left.map_err(database)? == 1 { Ok(()) } else { Err(JournalError::LeaseLost) }
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> Result<(), JournalError> {
        if self.is_held() { Ok(()) } else { Err(JournalError::LeaseLost) }
    }

    fn fenced(&self, ours: Generation) -> JournalError {
        let row = self
            .client()
            .query_opt("SELECT generation FROM epilogue_owners WHERE owner = $1", &[&self.owner]);
        let theirs = row.ok().flatten().map_or(0, |row| unsigned(row.get(0)));
        JournalError::Fenced { ours: ours.number(), theirs }
    }
}

/// An owner, and what came of paying what it owed.
pub type PaidOwner = (String, Result<Report, JournalError>);

/// Pays every owner whose lease is over, until there is none. Returns what came of each.
///
/// # Errors
///
/// [`JournalError::Database`].
pub fn pay_shared(
    address: &str,
    payer: &str,
    ttl: Duration,
    options: &Options,
) -> Result<Vec<PaidOwner>, JournalError> {
    let mut all = Vec::new();
    while let Some((store, generation)) = SharedStore::claim(address, payer, ttl)? {
        let about = About {
            uuid: store.owner().to_owned(),
            ended: Ended::Unknown,
            // Another machine's boot says nothing here.
            same_boot: false,
            dir: None,
            program: None,
            environment: None,
        };
        let lease = Arc::clone(&store.lease);
        let asked = Arc::clone(&options.stop);
        let stop = Arc::new(move || !lease.is_held() || asked());
        let options = Options { stop, ..options.clone() };
        let paid = pay::pay_store(&store, &about, generation, &options);
        let paid = paid.and_then(|report| {
            store.held()?;
            if report.left() == 0 {
                store.close(generation)?;
            }
            Ok(report)
        });
        let whole = paid.as_ref().is_ok_and(|report| report.left() == 0);
        all.push((store.owner().to_owned(), paid));
        if !whole {
            // What failed is due again when this lease is over; not in a tight loop. Who was replaced, or
            // cannot reach the database, is not to try for others either.
            break;
        }
    }
    Ok(all)
}

impl Lease {
    fn is_held(&self) -> bool {
        os::boot_clock_ms() < self.until.load(Ordering::Acquire)
    }

    /// Ends with the store that holds it, or with the lease.
    fn renew_in_background(lease: &Arc<Lease>) {
        let weak = Arc::downgrade(lease);
        let pause = lease.ttl / 3;
        let renewing = std::thread::Builder::new().name("epilogue-lease".into()).spawn(move || {
            let mut client = None;
            loop {
                std::thread::sleep(pause);
                let Some(lease) = Weak::upgrade(&weak) else { return };
                match lease.renew(&mut client) {
                    Ok(true) => {}
                    // Somebody else has it: for ever.
                    Ok(false) => return,
                    Err(_) => client = None,
                }
            }
        });
        // Without a thread the lease ends, and says so.
        drop(renewing);
    }

    fn renew(&self, client: &mut Option<Client>) -> Result<bool, JournalError> {
        if !self.is_held() {
            // Whoever saw that has stopped: kept alive, nobody could ever claim what it owes.
            return Ok(false);
        }
        // Counted from before the question: the answer may have been on its way for long.
        let asked = os::boot_clock_ms();
        let client = match client {
            Some(client) => client,
            None => client.insert(connect(&self.address, self.ttl / 3)?),
        };
        let renewed = client.execute(
            "UPDATE epilogue_owners SET lease_until = now() + $2::float8 * interval '1 s'
             WHERE owner = $1 AND generation = $3",
            &[&self.owner, &self.ttl.as_secs_f64(), &signed(self.generation)],
        );
        if renewed.map_err(database)? == 0 {
            self.until.store(0, Ordering::Release);
            return Ok(false);
        }
        // Never earlier than what holds already, and never again once it was over: whoever saw that has
        // stopped.
        if self.is_held() {
            self.until.fetch_max(asked + sure(self.ttl), Ordering::AcqRel);
        }
        Ok(true)
    }
}

fn sure(ttl: Duration) -> u64 {
    u64::try_from((ttl - ttl / DRIFT).as_millis()).unwrap_or(u64::MAX)
}

fn connect(address: &str, limit: Duration) -> Result<Client, JournalError> {
    let mut config: postgres::Config = address.parse().map_err(database)?;
    config.connect_timeout(limit);
    // A connection into a network that is cut must not hold anyone for minutes.
    config.tcp_user_timeout(limit);
    let mut client = config.connect(NoTls).map_err(database)?;
    client
        .batch_execute(&format!("SET statement_timeout = {}", limit.as_millis().max(100)))
        .map_err(database)?;
    Ok(client)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn database(error: postgres::Error) -> JournalError {
    let message = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
    JournalError::Database { message }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Store for SharedStore {
    fn register(&self, record: &Record<'_>) -> Result<u64, JournalError> {
        self.held()?;
        // The owner's row is locked against a claim in between.
        let row = self.client().query_opt(
            "WITH held AS (SELECT owner FROM epilogue_owners WHERE owner = $1 AND phase = 0 FOR SHARE)
             INSERT INTO epilogue_actions (owner, scope, time_ms, state, attempts, generation, body)
             SELECT owner, $2, $3, 1, 0, 0, $4 FROM held RETURNING id",
            &[&self.owner, &signed(record.scope), &signed(record.time_ms), &record.body],
        );
        row.map_err(database)?.map(|row| unsigned(row.get(0))).ok_or(JournalError::TooLate)
    }

    fn amend(&self, id: u64, _time_ms: u64, body: &[u8]) -> Result<(), JournalError> {
        self.held()?;
        let changed = self.client().execute(
            "UPDATE epilogue_actions SET amendment = $3 WHERE id = $1 AND owner = $2 AND state IN (1, 2, 3, 4)",
            &[&signed(id), &self.owner, &body],
        );
        if changed.map_err(database)? == 1 { Ok(()) } else { Err(JournalError::NoSuchRecord { id }) }
    }

    fn disarm(&self, id: u64) -> Result<Disarm, JournalError> {
        let changed = self.client().execute(
            "UPDATE epilogue_actions SET state = 6 WHERE id = $1 AND owner = $2 AND state = 1",
            &[&signed(id), &self.owner],
        );
        if changed.map_err(database)? == 1 {
            return Ok(Disarm::Disarmed);
        }
        let row = self.client().query_opt("SELECT state FROM epilogue_actions WHERE id = $1", &[&signed(id)]);
        let state = row
            .map_err(database)?
            .and_then(|row| State::from_code(unsigned(i64::from(row.get::<_, i16>(0)))));
        Ok(match state {
            Some(state @ (State::Running | State::Failed | State::Parked | State::Done)) => {
                Disarm::TooLate(state)
            }
            _ => Disarm::Already,
        })
    }

    fn open_entries(&self) -> Result<Vec<Entry>, JournalError> {
        let rows = self.client().query(
            "SELECT id, scope, time_ms, state, attempts, body, amendment FROM epilogue_actions
             WHERE owner = $1 AND state IN (1, 2, 3, 4) ORDER BY id DESC",
            &[&self.owner],
        );
        let entry = |row: &postgres::Row| {
            let number = |column: usize| unsigned(row.get(column));
            let state = State::from_code(unsigned(i64::from(row.get::<_, i16>(3))));
            let attempts = u8::try_from(row.get::<_, i16>(4)).unwrap_or(u8::MAX);
            Entry::new(number(0), number(1), number(2), state, row.get(5)).with(attempts, row.get(6))
        };
        Ok(rows.map_err(database)?.iter().map(entry).collect())
    }

    fn take_over(&self, payer: ProcessId) -> Result<Generation, JournalError> {
        let row = self.client().query_one(
            "UPDATE epilogue_owners SET generation = nextval('epilogue_fence'), phase = 1, payer = $2
             WHERE owner = $1 RETURNING generation",
            &[&self.owner, &format!("pid {}", payer.pid)],
        );
        Ok(Generation::of(unsigned(row.map_err(database)?.get(0))))
    }

    fn begin(&self, generation: Generation, entry: &Entry) -> Result<Option<u8>, JournalError> {
        self.held()?;
        // The owner's row first: who replaces this payer waits for this step, or this step finds it replaced.
        let row = self.client().query_opt(
            "WITH mine AS (SELECT owner FROM epilogue_owners WHERE owner = $2 AND generation = $3 FOR SHARE)
             UPDATE epilogue_actions a SET state = 2, attempts = LEAST(attempts + 1, 255), generation = $3
             FROM mine WHERE a.id = $1 AND a.owner = mine.owner
                 AND (a.state IN (1, 3) OR (a.state = 2 AND a.generation <> $3)) RETURNING a.attempts",
            &[&signed(entry.id), &self.owner, &signed(generation.number())],
        );
        if let Some(row) = row.map_err(database)? {
            return Ok(Some(u8::try_from(row.get::<_, i16>(0)).unwrap_or(u8::MAX)));
        }
        let mine = self.client().query_opt(
            "SELECT 1 FROM epilogue_owners WHERE owner = $1 AND generation = $2",
            &[&self.owner, &signed(generation.number())],
        );
        if mine.map_err(database)?.is_some() { Ok(None) } else { Err(self.fenced(generation)) }
    }

    fn finish(&self, generation: Generation, entry: &Entry, paid: Paid) -> Result<(), JournalError> {
        let state = i16::try_from(paid.state() as u64).unwrap_or(i16::MAX);
        let changed = self.client().execute(
            "WITH mine AS (SELECT owner FROM epilogue_owners WHERE owner = $2 AND generation = $3 FOR SHARE)
             UPDATE epilogue_actions a SET state = $4 FROM mine
             WHERE a.id = $1 AND a.owner = mine.owner AND a.state = 2 AND a.generation = $3",
            &[&signed(entry.id), &self.owner, &signed(generation.number()), &state],
        );
        if changed.map_err(database)? == 1 { Ok(()) } else { Err(self.fenced(generation)) }
    }

    fn park(&self, generation: Generation, entry: &Entry) -> Result<bool, JournalError> {
        let changed = self.client().execute(
            "WITH mine AS (SELECT owner FROM epilogue_owners WHERE owner = $2 AND generation = $3 FOR SHARE)
             UPDATE epilogue_actions a SET state = 4 FROM mine
             WHERE a.id = $1 AND a.owner = mine.owner AND a.state IN (1, 2, 3)",
            &[&signed(entry.id), &self.owner, &signed(generation.number())],
        );
        Ok(changed.map_err(database)? == 1)
    }

    fn close(&self, generation: Generation) -> Result<bool, JournalError> {
        let changed = self.client().execute(
            "DELETE FROM epilogue_owners WHERE owner = $1 AND generation = $2",
            &[&self.owner, &signed(generation.number())],
        );
        Ok(changed.map_err(database)? == 1)
    }
}
