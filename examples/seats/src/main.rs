//! Seats that are held while somebody pays, in a SQLite database that `DATABASE_URL` names (`sqlite:///PATH`).
//!
//! A line `hold SEAT` on standard input holds one, `pay SEAT` sells it. What is held and not paid is given back,
//! whatever becomes of the program: on a stop in the program's own order, before the pool closes; after `kill -9` by
//! its guardian.

use std::collections::HashMap;
use std::process::ExitCode;
use std::str::FromStr;

use epilogue::adapters::{Pool, sqlx_pool};
use epilogue::durable::{Durable, SecretRef, SqlStatement};
use epilogue::{App, DurableScope, Error};
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

const DATABASE: &str = "DATABASE_URL";

const TABLES: &str = "create table if not exists held (seat text primary key, hold text);
                      create table if not exists sold (seat text primary key)";

fn main() -> ExitCode {
    epilogue::main(async |app: &App| {
        let seats = Seats { app, pool: open(app).await?, unpaid: HashMap::new() };
        seats.serve().await
    })
}

async fn open(app: &App) -> Result<Pool<Sqlite>, Error> {
    let address = std::env::var(DATABASE).map_err(|error| Error::msg(format!("{DATABASE}: {error}")))?;
    let options = SqliteConnectOptions::from_str(&address)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal);
    let pool = app.start(sqlx_pool("seats", SqlitePoolOptions::new().connect_lazy_with(options))).await?;
    sqlx::raw_sql(TABLES).execute(&mut *pool.acquire().await?).await?;
    Ok(pool)
}

struct Seats<'a> {
    app: &'a App,
    pool: Pool<Sqlite>,
    unpaid: HashMap<String, Durable>,
}

impl Seats<'_> {
    async fn serve(mut self) -> Result<(), Error> {
        let mut lines = BufReader::new(stdin()).lines();
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line?,
                _ = self.app.stopping() => None,
            };
            let Some(line) = line else { return Ok(()) };
            let answer = match line.split_once(' ') {
                Some(("hold", seat)) => self.hold(seat).await,
                Some(("pay", seat)) => self.pay(seat).await,
                _ => Err(Error::msg("it is `hold SEAT` or `pay SEAT`")),
            };
            match answer {
                Ok(done) => println!("{done}"),
                Err(error) => println!("{line}: {error}"),
            }
        }
    }

    async fn hold(&mut self, seat: &str) -> Result<String, Error> {
        // What is given back is this hold: another program may have the seat by then.
        let hold: String = sqlx::query_scalar("select hex(randomblob(8))")
            .fetch_one(&mut *self.pool.acquire().await?)
            .await?;
        let mut transaction = self.pool.begin().await?;
        let insert = "insert into held select $1, $2 where not exists (select 1 from sold where seat = $1)";
        let done = sqlx::query(insert).bind(seat).bind(&hold).execute(&mut *transaction).await?;
        if done.rows_affected() == 0 {
            return Err(Error::msg("it is sold"));
        }
        // Before the row is there for others to see.
        let undo = self.app.durable(SqlStatement {
            database: SecretRef::Env(DATABASE.into()),
            statement: "delete from held where hold = $1".into(),
            parameters: vec![hold],
        })?;
        match transaction.commit().await {
            Ok(()) => self.unpaid.insert(seat.into(), undo),
            Err(error) => {
                undo.disarm();
                return Err(error.into());
            }
        };
        Ok(format!("held {seat}"))
    }

    async fn pay(&mut self, seat: &str) -> Result<String, Error> {
        if !self.unpaid.contains_key(seat) {
            return Err(Error::msg("nobody holds it here"));
        }
        let mut transaction = self.pool.begin().await?;
        sqlx::query("insert into sold values ($1)").bind(seat).execute(&mut *transaction).await?;
        sqlx::query("delete from held where seat = $1").bind(seat).execute(&mut *transaction).await?;
        transaction.commit().await?;
        self.unpaid.remove(seat).map(Durable::disarm);
        Ok(format!("sold {seat}"))
    }
}
