//! A pool of SQLite connections: what is held is waited for, named, and undone.

#[path = "../../../crates/process/tests/rig/mod.rs"]
mod rig;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use epilogue::adapters::{Pool, sqlx_pool};
use epilogue::{App, Error, Options, run_with};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection, Sqlite, SqliteConnection};

const S: Duration = Duration::from_secs(1);
const DATABASE: &str = "EPILOGUE_TEST_DATABASE";

/// A statement that a client cannot end by waiting.
const ENDLESS: &str = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";

fn options(database: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(database)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
}

async fn pool(app: &App, database: &Path) -> Result<Pool<Sqlite>, Error> {
    let pool = SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options(database));
    app.start(sqlx_pool("database", pool)).await
}

/// Not a test: programs whose pool somebody holds, and never gives back.
#[test]
fn program() {
    let (Ok(database), Ok(way)) = (std::env::var(DATABASE), std::env::var(rig::PROGRAM)) else { return };
    let code = epilogue::main(async |app: &App| {
        let pool = pool(app, Path::new(&database)).await?;
        let mut transaction = pool.begin().await?;
        sqlx::query("insert into orders values (1)").execute(&mut *transaction).await?;
        let endless = way == "computes";
        tokio::spawn(async move {
            if endless {
                let _ = sqlx::query(ENDLESS).execute(&mut *transaction).await;
            }
            std::future::pending::<()>().await;
            drop(transaction);
        });
        println!("ready");
        app.stopping().await;
        Ok(())
    });
    assert_eq!(code, ExitCode::SUCCESS, "it does not come to that");
}

struct Database(PathBuf);

impl Database {
    fn new(name: &str) -> Database {
        let dir = std::env::temp_dir().join(format!("epilogue-sqlite-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Database(dir)
    }

    fn file(&self) -> PathBuf {
        self.0.join("db")
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn connect(&self) -> SqliteConnection {
        let mut connection = SqliteConnection::connect_with(&options(&self.file())).await.unwrap();
        sqlx::query("create table if not exists orders (id int)").execute(&mut connection).await.unwrap();
        connection
    }

    async fn count(&self) -> i64 {
        let mut connection = self.connect().await;
        sqlx::query_scalar("select count(*) from orders").fetch_one(&mut connection).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_waited_for_and_what_is_not_committed_is_undone() {
    let database = Database::new("waits");
    database.connect().await.close().await.unwrap();
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let pool = pool(app, &database.file()).await?;
        let mut kept = pool.begin().await?;
        sqlx::query("insert into orders values (1)").execute(&mut *kept).await?;
        kept.commit().await?;
        let mut dropped = pool.begin().await?;
        sqlx::query("insert into orders values (2)").execute(&mut *dropped).await?;
        let told = app.clone();
        tokio::spawn(async move {
            told.stopping().await;
            tokio::time::sleep(S / 2).await;
            drop(dropped);
        });
        Ok(())
    })
    .await;
    assert_eq!((report.code, report.steps[0].notes.as_slice()), (0, &["waited for 1 held".to_owned()][..]));
    assert!(report.total >= S / 2, "{report}");
    assert_eq!(database.files(), ["db"], "closed well, nothing is beside it");
    assert_eq!(database.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_opened_is_an_error_of_the_start() {
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        pool(app, Path::new("/nowhere/db")).await?;
        Ok(())
    })
    .await;
    assert_eq!(report.code, 1, "{report}");
    assert!(report.to_string().contains("unable to open database file"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_unfinished_at_the_deadline_is_undone_and_its_holder_named() {
    for way in ["holds", "computes"] {
        let database = Database::new(way);
        database.connect().await.close().await.unwrap();
        let file = database.file();
        let environment = [(DATABASE, file.to_str().unwrap()), ("EPILOGUE_GRACE", "2s")];
        let running = rig::start_as(way, &[], &environment);
        running.signal(libc::SIGTERM);
        let (status, took, said) = running.end();
        assert_eq!(status.code(), Some(124), "{way}: {said}");
        assert!(said.contains("abandoned: database: a transaction of tests/pool.rs:"), "{way}: {said}");
        assert!(took < 3 * S, "{way}: {took:?}");
        assert_eq!(database.count().await, 0, "{way}: nothing of it is left");
    }
}
