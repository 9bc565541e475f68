//! The drain of raw TCP connections, over real sockets.
#![cfg(feature = "tcp")]

use std::net::SocketAddr;
use std::time::Duration;

use epilogue_process::{App, ExitReport, Options, run_with, tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

const S: Duration = Duration::from_secs(1);

struct Server {
    address: SocketAddr,
    app: App,
    handle: tcp::ServerHandle,
    ended: tokio::task::JoinHandle<ExitReport>,
}

async fn serve<F, Fut>(grace: Duration, handler: F, with: fn(tcp::Serve<F>) -> tcp::Serve<F>) -> Server
where
    F: Fn(tcp::Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (tell, told) = oneshot::channel();
    let ended = tokio::spawn(async move {
        let body = async move |app: &App| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let handle = app.start(with(tcp::serve(listener, handler))).await?;
            let _ = tell.send((handle, app.clone()));
            Ok(())
        };
        run_with(Options::embedded().grace(grace), body).await.1
    });
    let (handle, app) = told.await.unwrap();
    Server { address: handle.local_addr(), app, handle, ended }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        let before = self.handle.connections();
        let stream = TcpStream::connect(self.address).await.unwrap();
        while self.handle.connections() == before {
            tokio::task::yield_now().await;
        }
        stream
    }
}

/// Says back each line; told that the program stops it ends, between two lines.
async fn echo(mut connection: tcp::Connection) {
    let stopping = connection.stopping();
    tokio::pin!(stopping);
    loop {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let read = tokio::select! {
                () = &mut stopping, if line.is_empty() => return,
                read = connection.read_u8() => read,
            };
            let Ok(byte) = read else { return };
            if byte == b'!' {
                std::panic::resume_unwind(Box::new("told to"));
            }
            line.push(byte);
        }
        if connection.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Ends only with its client.
async fn deaf(mut connection: tcp::Connection) {
    while connection.read_u8().await.is_ok() {}
}

async fn line(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text.as_bytes());
}

#[tokio::test]
async fn a_handler_that_is_told_ends_where_its_protocol_allows_it() {
    let server = serve(30 * S, echo, |serve| serve).await;
    let (mut idle, mut busy) = (server.connect().await, server.connect().await);
    line(&mut idle, "hello\n").await;
    line(&mut busy, "hello\n").await;
    busy.write_all(b"half").await.unwrap();
    // It has that, and is in the middle of it.
    tokio::time::sleep(S / 20).await;
    server.app.stop();
    assert_eq!(idle.read(&mut [0; 8]).await.unwrap(), 0, "closed, and not reset");
    tokio::time::sleep(3 * S / 2).await;
    busy.write_all(b" a line\n").await.unwrap();
    let mut rest = String::new();
    busy.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "half a line\n");
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0, "{report}");
    assert!(report.total < 4 * S, "{report}");
}

#[tokio::test]
async fn while_bytes_come_the_listener_stays_open_and_checks_that_send_nothing_are_none() {
    let server = serve(30 * S, echo, |serve| serve).await;
    let mut client = server.connect().await;
    line(&mut client, "hello\n").await;
    let began = std::time::Instant::now();
    server.app.stop();
    // New clients come for a while: routers are late.
    while began.elapsed() < S + S / 2 {
        drop(TcpStream::connect(server.address).await.unwrap());
        let mut late = TcpStream::connect(server.address).await.unwrap();
        line(&mut late, "late\n").await;
        tokio::time::sleep(S / 10).await;
    }
    // Checks alone go on.
    while let Ok(stream) = TcpStream::connect(server.address).await {
        drop(stream);
        tokio::time::sleep(S / 50).await;
        assert!(began.elapsed() < 5 * S, "checks keep it open");
    }
    assert!(began.elapsed() > 2 * S, "quiet is a second without a first byte");
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_at_the_deadline_and_named() {
    let server = serve(2 * S, deaf, |serve| serve).await;
    let mut client = server.connect().await;
    client.write_all(b"hello").await.unwrap();
    let _silent = server.connect().await;
    while server.handle.in_flight() != 1 {
        tokio::task::yield_now().await;
    }
    server.app.stop();
    let report = server.ended.await.unwrap();
    let abandoned = report.abandoned();
    assert_eq!((report.code, abandoned.len()), (124, 1), "{report}");
    assert!(abandoned[0].contains("a connection from 127.0.0.1:"), "{report}");
    assert!(abandoned[0].ends_with("0 bytes written"), "{report}");
    assert!(report.total < 2 * S, "{report}");
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn with_a_cap_it_is_cut_sooner_and_said() {
    let server = serve(30 * S, deaf, |serve| serve.cap(S / 5)).await;
    let mut client = server.connect().await;
    client.write_all(b"hello").await.unwrap();
    while server.handle.in_flight() != 1 {
        tokio::task::yield_now().await;
    }
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0, "{report}");
    assert!(report.to_string().contains("did not end when it was told: a connection from"), "{report}");
    assert!(report.total < 4 * S, "{report}");
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_connection_alone() {
    let server = serve(30 * S, echo, |serve| serve).await;
    let (mut client, mut other) = (server.connect().await, server.connect().await);
    client.write_all(b"!").await.unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    line(&mut other, "hello\n").await;
    server.app.stop();
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn an_idle_server_stops_in_milliseconds_whatever_has_connected_long_ago() {
    let server = serve(30 * S, deaf, |serve| serve).await;
    let mut silent = server.connect().await;
    tokio::time::sleep(S + S / 10).await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert!(report.code == 0 && report.total < S / 2, "{report}");
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn one_that_its_handler_has_given_away_is_cut_in_time_too() {
    let (woken, mut hears) = mpsc::channel(2);
    let gives = move |connection: tcp::Connection| {
        let woken = woken.clone();
        async move {
            tokio::spawn(async move {
                let mut connection = connection;
                while connection.read_u8().await.is_ok() {}
                let _ = woken.send(()).await;
                // It may keep it for ever all the same.
                std::future::pending::<()>().await;
            });
        }
    };
    let server = serve(30 * S, gives, |serve| serve.cap(S / 5)).await;
    let mut asked = server.connect().await;
    asked.write_all(b"x").await.unwrap();
    while server.handle.in_flight() != 1 {
        tokio::task::yield_now().await;
    }
    let _silent = server.connect().await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert!(report.code == 0 && report.total < 4 * S, "{report}");
    assert!(report.to_string().contains("did not end when it was told: a connection from"), "{report}");
    let both = async { hears.recv().await.and(hears.recv().await) };
    tokio::time::timeout(5 * S, both).await.expect("whoever waits for it is woken").unwrap();
}

#[tokio::test]
async fn what_a_handler_has_not_come_to_reading_counts_as_in_flight() {
    let slow = |mut connection: tcp::Connection| async move {
        tokio::time::sleep(3 * S).await;
        if let Ok(byte) = connection.read_u8().await {
            let _ = connection.write_all(&[byte]).await;
        }
    };
    let server = serve(30 * S, slow, |serve| serve).await;
    let mut client = server.connect().await;
    client.write_all(b"x").await.unwrap();
    server.app.stop();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    assert_eq!(server.ended.await.unwrap().code, 0);
}
