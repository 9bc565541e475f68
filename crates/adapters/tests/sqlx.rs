//! A pool of a real PostgreSQL server: what is held is waited for, named, and undone.
#![cfg(feature = "sqlx")]

#[path = "../../process/tests/rig/mod.rs"]
mod rig;
#[path = "../../guardian/tests/support/servers.rs"]
mod support;

use std::time::Duration;

use epilogue_adapters::{Pool, sqlx_pool};
use epilogue_process::{App, Error, ExitReport, Options, run_with};
use sqlx::Postgres;
use sqlx::postgres::PgPoolOptions;

const S: Duration = Duration::from_secs(1);
const ADDRESS: &str = "EPILOGUE_TEST_POSTGRES";

/// Not a test: a program with a transaction that nobody ever ends.
#[test]
fn program() {
    let (Ok(address), Ok(_)) = (std::env::var(ADDRESS), std::env::var(rig::PROGRAM)) else { return };
    let code = epilogue_process::main(async |app: &App| {
        let pool = PgPoolOptions::new().connect_lazy(&address)?;
        let pool = app.start(sqlx_pool("database", pool)).await?;
        let mut transaction = pool.begin().await?;
        sqlx::query("insert into orders values (1)").execute(&mut *transaction).await?;
        std::thread::spawn(move || {
            let _held = transaction;
            std::thread::park();
        });
        println!("ready");
        app.stopping().await;
        Ok(())
    });
    assert_eq!(code, std::process::ExitCode::SUCCESS, "it does not come to that");
}

/// On a thread of its own: looking whether it answers brings a runtime of its own.
async fn server(name: &'static str) -> support::Server {
    tokio::task::spawn_blocking(move || support::postgres(name)).await.unwrap()
}

async fn with_pool(
    server: &support::Server,
    grace: Duration,
    body: impl AsyncFnOnce(&App, Pool<Postgres>) -> Result<(), Error>,
) -> ExitReport {
    let address = server.address("127.0.0.1");
    let body = async |app: &App| {
        let pool = PgPoolOptions::new().max_connections(4).connect_lazy(&address)?;
        let pool = app.start(sqlx_pool("database", pool)).await?;
        body(app, pool).await
    };
    run_with(Options::embedded().grace(grace), body).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_waited_for_and_what_is_not_committed_is_undone() {
    let server = server("sqlx-waits").await;
    let report = with_pool(&server, 30 * S, async |app, pool| {
        let mut connection = pool.acquire().await?;
        sqlx::query("create table orders (id int)").execute(&mut *connection).await?;
        let mut kept = pool.begin().await?;
        sqlx::query("insert into orders values (1)").execute(&mut *kept).await?;
        kept.commit().await?;
        let mut dropped = pool.begin().await?;
        sqlx::query("insert into orders values (2)").execute(&mut *dropped).await?;
        drop(dropped);
        // It goes back by a task of its own.
        while pool.holders().len() > 1 {
            tokio::task::yield_now().await;
        }
        let told = app.clone();
        tokio::spawn(async move {
            told.stopping().await;
            tokio::time::sleep(S / 2).await;
            drop(connection);
        });
        Ok(())
    })
    .await;
    assert_eq!((report.code, report.steps[0].notes.as_slice()), (0, &["waited for 1 held".to_owned()][..]));
    assert!(report.total >= S / 2, "{report}");
    assert_eq!(count(&server), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_connection_at_the_deadline_is_named_with_the_place() {
    let server = server("sqlx-stuck").await;
    let report = with_pool(&server, 2 * S, async |_, pool| {
        let held = pool.acquire().await?;
        let unnamed = pool.as_sqlx().acquire().await?;
        tokio::spawn(async move {
            let _held = (held, unnamed);
            std::future::pending::<()>().await;
        });
        Ok(())
    })
    .await;
    let abandoned = report.abandoned();
    assert_eq!(report.code, 124, "{report}");
    let named = |text: &str| abandoned.iter().any(|what| what.contains(text));
    assert!(named("a connection of crates/adapters/tests/sqlx.rs:"), "{report}");
    assert!(named("1 more, held by users of sqlx's own pool"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_an_error_of_the_start() {
    let options = PgPoolOptions::new().acquire_timeout(S / 2);
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let pool = options.connect_lazy("postgres://nobody@127.0.0.1:1/none")?;
        app.start(sqlx_pool("database", pool)).await?;
        Ok(())
    })
    .await;
    assert_eq!(report.code, 1, "{report}");
    let said = report.to_string();
    assert!(said.contains("database (crates/adapters/tests/sqlx.rs:"), "{said}");
    assert!(said.contains("Connection refused"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_connection_is_told_and_holds_none() {
    let server = server("sqlx-wait").await;
    let report = with_pool(&server, 30 * S, async |_, pool| {
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(pool.acquire().await?);
        }
        let waits = tokio::spawn({
            let pool = pool.clone();
            async move { pool.acquire().await.map(drop) }
        });
        while pool.holders().len() < 5 {
            tokio::task::yield_now().await;
        }
        let told = pool.holders();
        assert!(told[4].starts_with("a wait for a connection of crates/adapters/tests/sqlx.rs:"), "{told:?}");
        assert_eq!(told.len(), 5, "{told:?}");
        drop(all);
        waits.await??;
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
}

#[test]
fn a_transaction_that_is_unfinished_at_the_deadline_is_undone_and_its_holder_named() {
    let server = support::postgres("sqlx-undone");
    let mut client = postgres::Client::connect(&server.address("127.0.0.1"), postgres::NoTls).unwrap();
    client.batch_execute("create table orders (id int)").unwrap();
    let address = server.address("127.0.0.1");
    let running = rig::start_as("holds", &[], &[(ADDRESS, &address), ("EPILOGUE_GRACE", "2s")]);
    running.signal(libc::SIGTERM);
    let (status, took, said) = running.end();
    assert_eq!(status.code(), Some(124), "{said}");
    assert!(said.contains("abandoned: database: a transaction of crates/adapters/tests/sqlx.rs:"), "{said}");
    assert!(took < 3 * S, "{took:?}");
    support::wait_until("its session is over", || {
        let others = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
        client.query_one(others, &[]).unwrap().get::<_, i64>(0) == 1
    });
    assert_eq!(count(&server), 0, "nothing of it is left");
}

fn count(server: &support::Server) -> i64 {
    let address = server.address("127.0.0.1");
    let count = move || {
        let mut client = postgres::Client::connect(&address, postgres::NoTls).unwrap();
        client.query_one("select count(*) from orders", &[]).unwrap().get(0)
    };
    // It brings a runtime of its own.
    std::thread::spawn(count).join().unwrap()
}
