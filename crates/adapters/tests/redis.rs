//! A client of a real Redis server.
#![cfg(feature = "redis")]

#[path = "../../guardian/tests/support/servers.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use epilogue_adapters::redis_client;
use epilogue_process::{App, Options, run_with};
use fred::prelude::KeysInterface;

/// How many clients the server has, beside whoever asks.
fn clients(port: u16, password: &str) -> usize {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "AUTH {password}\r\nCLIENT LIST TYPE normal\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "+OK");
    let length: usize = lines.next().unwrap()[1..].parse().unwrap();
    let mut read = 0;
    let list = lines.take_while(|line| {
        read += line.len() + 1;
        read < length
    });
    list.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_were_sent_are_answered_and_the_server_is_left() {
    let server = support::redis(Some("secret"));
    let port = server.port;
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let cache = app.start(redis_client("cache", "127.0.0.1", port).login(None, "secret")).await?;
        let _: () = cache.set("greeting", "hello", None, None, false).await?;
        let greeting: String = cache.get("greeting").await?;
        assert_eq!((greeting.as_str(), clients(port, "secret")), ("hello", 1));
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
    support::wait_until("it is left", || clients(port, "secret") == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_or_refuses_is_an_error_of_the_start() {
    let server = support::redis(Some("secret"));
    for (port, password) in [(1, "secret"), (server.port, "wrong")] {
        let (_, report) = run_with(Options::embedded(), async |app: &App| {
            app.start(redis_client("cache", "127.0.0.1", port).login(None, password)).await?;
            Ok(())
        })
        .await;
        assert_eq!(report.code, 1, "{report}");
        let said = report.to_string();
        assert!(said.contains("cache (crates/adapters/tests/redis.rs:"), "{said}");
        assert!(said.contains(&format!("did not start: 127.0.0.1:{port}: ")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_gone_holds_a_command_for_its_time_out_and_the_stop_for_less() {
    let server = support::redis(Some("secret"));
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let client = redis_client("cache", "127.0.0.1", server.port).login(None, "secret");
        let cache = app.start(client.command_timeout(Duration::from_millis(300))).await?;
        drop(server);
        let asked = Instant::now();
        let answer: Result<Option<String>, _> = cache.get("greeting").await;
        assert!(answer.is_err() && asked.elapsed() < Duration::from_secs(3), "{answer:?}");
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
    assert!(report.total < Duration::from_millis(2_500), "{report}");
}
