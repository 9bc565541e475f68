//! The drain of the HTTP server, over real sockets.
#![cfg(feature = "axum")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use epilogue_process::{App, ExitReport, Options, http, run_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// `/stream` sends what the test feeds it; `/panic` panics.
fn router(feed: mpsc::Receiver<&'static str>) -> Router {
    let feed = std::sync::Arc::new(tokio::sync::Mutex::new(feed));
    let stream = get(move || async move {
        let mut feed = feed.clone().lock_owned().await;
        Body::new(Chunks(std::pin::Pin::from(Box::new(std::future::poll_fn(move |cx| feed.poll_recv(cx))))))
    });
    Router::new()
        .route("/stream", stream)
        .route(
            "/panic",
            get(|| async {
                if true {
                    std::panic::resume_unwind(Box::new("handler"))
                }
            }),
        )
        .route("/large", get(|| async { Bytes::from(vec![b'.'; LARGE]) }))
        .route("/events", get(move || async { ([("content-type", "text/event-stream")], events()) }))
        .route("/", get(|| async { "hello" }).post(|body: Bytes| async move { body.len().to_string() }))
}

/// More than the sockets of both sides take at once.
const LARGE: usize = 16 << 20;

/// One event, and then nothing, for ever.
fn events() -> Body {
    let mut sent = false;
    Body::new(Chunks(Box::pin(std::future::poll_fn(move |_| match std::mem::replace(&mut sent, true) {
        false => std::task::Poll::Ready(Some("data: first\n\n")),
        true => std::task::Poll::Pending,
    }))))
}

struct Chunks<F>(std::pin::Pin<Box<F>>);

impl<F: Future<Output = Option<&'static str>>> http_body::Body for Chunks<F> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        self.0
            .as_mut()
            .poll(cx)
            .map(|chunk| chunk.map(|text| Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes())))))
    }
}

struct Server {
    address: SocketAddr,
    app: App,
    feed: mpsc::Sender<&'static str>,
    ended: tokio::task::JoinHandle<ExitReport>,
}

async fn server(options: Options) -> Server {
    let (feed, fed) = mpsc::channel(8);
    let (tell, told) = oneshot::channel();
    let ended = tokio::spawn(async move {
        let body = async move |app: &App| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let serve = http::serve(listener, router(fed)).readiness("/ready").liveness("/live");
            app.start(serve).await?;
            let _ = tell.send((address, app.clone()));
            Ok(())
        };
        run_with(options, body).await.1
    });
    let (address, app) = told.await.unwrap();
    Server { address, app, feed, ended }
}

async fn ask(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads until `wanted` is in what came; panics at the end of the stream.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let read = stream.read_buf(&mut seen).await.unwrap();
        assert!(read > 0, "closed after {:?}, before {wanted:?}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8_lossy(&seen).into_owned()
}

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

#[tokio::test]
async fn an_idle_server_stops_in_milliseconds() {
    let server = server(Options::embedded()).await;
    let mut probing = connect(&server).await;
    ask(&mut probing, "/ready").await;
    read_until(&mut probing, "ready\n").await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert!(report.total < Duration::from_millis(900), "probes are no demand: {:?}", report.total);
    assert_eq!(probing.read(&mut [0; 16]).await.unwrap(), 0, "the idle connection is closed");
}

#[tokio::test]
async fn while_leaving_it_answers_new_connections_and_announces_close() {
    let server = server(Options::embedded()).await;
    let mut old = connect(&server).await;
    ask(&mut old, "/").await;
    assert!(!read_until(&mut old, "hello").await.contains("connection: close"));
    server.app.stop();
    server.app.stopping().await;

    let mut probe = connect(&server).await;
    ask(&mut probe, "/ready").await;
    assert!(read_until(&mut probe, "stopping").await.contains("503"));
    let mut live = connect(&server).await;
    ask(&mut live, "/live").await;
    assert!(read_until(&mut live, "alive").await.contains("200 OK"));
    ask(&mut old, "/").await;
    assert!(read_until(&mut old, "hello").await.contains("connection: close"));
    assert_eq!(old.read(&mut [0; 16]).await.unwrap(), 0);
    let mut new = connect(&server).await;
    ask(&mut new, "/").await;
    assert!(read_until(&mut new, "hello").await.contains("connection: close"));

    let report = server.ended.await.unwrap();
    assert_eq!((report.code, report.abandoned().len()), (0, 0));
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is free");
}

#[tokio::test]
async fn what_is_in_flight_is_finished() {
    let server = server(Options::embedded()).await;
    let mut slow = connect(&server).await;
    ask(&mut slow, "/stream").await;
    server.feed.send("first ").await.unwrap();
    read_until(&mut slow, "first ").await;
    server.app.stop();
    // Longer than quiet and linger together: the server waits for this one alone.
    let waiting = tokio::time::timeout(Duration::from_millis(2_500), slow.read_u8()).await;
    assert!(waiting.is_err(), "nothing was sent and nothing was closed");
    server.feed.send("last").await.unwrap();
    drop(server.feed);
    assert!(read_until(&mut slow, "0\r\n\r\n").await.contains("last"));
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["steps"][0]["in_flight"], serde_json::json!({ "at_start": 1, "at_end": 0 }));
}

#[tokio::test]
async fn what_is_in_flight_at_the_deadline_is_cut_and_named() {
    let server = server(Options::embedded().grace(Duration::from_secs(2))).await;
    let mut slow = connect(&server).await;
    ask(&mut slow, "/stream").await;
    server.feed.send("first").await.unwrap();
    read_until(&mut slow, "first").await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 124);
    let abandoned = report.abandoned();
    assert!(abandoned[0].contains("GET /stream from 127.0.0.1"), "{abandoned:?}");
    assert!(abandoned[0].contains("5 bytes of body handed over"), "{abandoned:?}");
    assert!(report.total < Duration::from_millis(1_600), "{:?}", report.total);
    let in_flight = report.in_flight().unwrap();
    assert_eq!((in_flight.at_start, in_flight.at_end), (1, Some(1)));
    assert!(report.line().contains(" in_flight=1 in_flight_at_end=1 "), "{}", report.line());
    drop(server.feed);
}

#[tokio::test]
async fn a_panicking_handler_answers_500_and_nothing_else_suffers() {
    let server = server(Options::embedded()).await;
    let mut client = connect(&server).await;
    ask(&mut client, "/panic").await;
    assert!(read_until(&mut client, "panicked").await.contains("500 Internal"));
    ask(&mut client, "/").await;
    read_until(&mut client, "hello").await;
    server.app.stop();
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn connections_queued_in_the_kernel_are_answered_not_reset() {
    let server = server(Options::embedded()).await;
    // Connected and asked, all before the runtime has polled the accept loop again.
    let mut queued = Vec::new();
    for _ in 0..50 {
        let mut stream = std::net::TcpStream::connect(server.address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        queued.push(TcpStream::from_std(stream).unwrap());
    }
    server.app.stop();
    for stream in &mut queued {
        read_until(stream, "hello").await;
    }
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn a_large_response_is_sent_to_its_end_however_slowly_it_is_read() {
    let server = server(Options::embedded()).await;
    server.app.stop();
    server.app.stopping().await;
    let mut slow = connect(&server).await;
    ask(&mut slow, "/large").await;
    // The listener closes and idle connections are closed while most of it is still to be sent.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let mut all = Vec::new();
    slow.read_to_end(&mut all).await.unwrap();
    assert!(all.len() > LARGE, "{} of {LARGE} bytes", all.len());
    let report = server.ended.await.unwrap();
    assert_eq!((report.code, report.abandoned()), (0, Vec::new()));
}

#[tokio::test]
async fn an_event_stream_is_ended_cleanly_and_half_a_request_is_not_waited_for() {
    let server = server(Options::embedded()).await;
    let mut events = connect(&server).await;
    ask(&mut events, "/events").await;
    read_until(&mut events, "first").await;
    let mut half = connect(&server).await;
    half.write_all(b"GET / HT").await.unwrap();
    server.app.stop();
    read_until(&mut events, "0\r\n\r\n").await;
    let report = server.ended.await.unwrap();
    assert_eq!((report.code, report.abandoned()), (0, Vec::new()));
    assert!(report.total < Duration::from_secs(6), "{:?}", report.total);
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_at_the_deadline_and_named() {
    let server = server(Options::embedded().grace(Duration::from_secs(3))).await;
    let mut deaf = connect(&server).await;
    ask(&mut deaf, "/large").await;
    let mut first = [0; 16];
    deaf.read_exact(&mut first).await.unwrap();
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 124);
    assert!(report.abandoned()[0].contains("GET /large from 127.0.0.1"), "{:?}", report.abandoned());
}

#[tokio::test]
async fn a_client_that_has_just_connected_is_answered_although_nobody_had_asked_for_anything() {
    let server = server(Options::embedded()).await;
    let mut first = connect(&server).await;
    // Accepted: the loop runs between this and the stop.
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.app.stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    ask(&mut first, "/").await;
    read_until(&mut first, "hello").await;
    let report = server.ended.await.unwrap();
    assert!(report.code == 0 && report.total < Duration::from_millis(1_500), "{report}");
}

#[tokio::test]
async fn half_a_request_on_a_connection_in_use_has_its_time_too() {
    let server = server(Options::embedded()).await;
    let mut client = connect(&server).await;
    ask(&mut client, "/").await;
    read_until(&mut client, "hello").await;
    client.write_all(b"GET / HT").await.unwrap();
    server.app.stop();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Idle connections are closed a second after the listener.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    client.write_all(b"TP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, "hello").await.contains("connection: close"));
    assert_eq!(server.ended.await.unwrap().code, 0);
}

/// Sends what it has, a byte at a time, until it is closed on.
async fn drips(mut stream: TcpStream, bytes: &'static [u8]) {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn clients_that_send_a_byte_now_and_then_are_cut_in_time_whatever_they_drip() {
    let server = server(Options::embedded().grace(Duration::from_secs(8))).await;
    let head = connect(&server).await;
    let mut body = connect(&server).await;
    body.write_all(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
    let head = tokio::spawn(drips(head, b"GET / HTTP/1.1\r\nhost: "));
    let body = tokio::spawn(drips(body, b"x"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert_eq!((report.code, report.abandoned().len()), (124, 1), "{report}");
    assert!(report.abandoned()[0].contains("POST / from 127.0.0.1:"), "{report}");
    assert!(report.total < Duration::from_secs(8), "{report}");
    head.await.unwrap();
    body.await.unwrap();
}

#[tokio::test]
async fn in_a_hurry_what_is_in_flight_has_two_seconds() {
    use epilogue_process::escalation::StopSignal;
    let server = server(Options::embedded()).await;
    let mut slow = connect(&server).await;
    ask(&mut slow, "/stream").await;
    server.feed.send("first").await.unwrap();
    read_until(&mut slow, "first").await;
    server.app.signal(StopSignal::Int);
    tokio::time::sleep(Duration::from_millis(600)).await;
    server.app.signal(StopSignal::Int);
    let hurried = std::time::Instant::now();
    let report = server.ended.await.unwrap();
    assert!(report.abandoned()[0].contains("GET /stream from 127.0.0.1"), "{report}");
    assert!((1900..2900).contains(&hurried.elapsed().as_millis()), "{report}");
    drop(server.feed);
}

#[tokio::test]
async fn whoever_means_for_ever_may_say_so() {
    let (_, report) = run_with(Options::embedded().grace(Duration::from_secs(1)), async |app: &App| {
        let for_ever = Duration::MAX;
        let serve = http::serve(TcpListener::bind("127.0.0.1:0").await?, Router::new());
        let serve = serve.quiet(for_ever).hold_min(for_ever).hold_max(for_ever);
        app.start(serve.idle_linger(for_ever).stream_cap(for_ever)).await?;
        app.stop();
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
}

/// The status of an answer.
async fn status(address: SocketAddr, path: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, path).await;
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn probes_tell_a_start_a_run_and_a_stop_apart() {
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let probes = app.start(http::probes(app, listener)).await?;
        let all = async || {
            [status(probes, "/startup").await, status(probes, "/ready").await, status(probes, "/live").await]
        };
        assert_eq!(all().await, [503, 503, 200], "starting");
        app.ready();
        assert_eq!(all().await, [200, 200, 200], "running");
        let mut kept = TcpStream::connect(probes).await?;
        ask(&mut kept, "/live").await;
        assert!(!read_until(&mut kept, "alive\n").await.to_lowercase().contains("connection: close"));
        app.defer("newer", async move || {
            assert_eq!(status(probes, "/ready").await, 503);
            assert_eq!(status(probes, "/live").await, 200);
            ask(&mut kept, "/live").await;
            let last = read_until(&mut kept, "alive\n").await.to_lowercase();
            assert!(last.contains("connection: close"), "{last}");
            Ok(())
        });
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
    // Nothing waits for whoever probes.
    assert!(report.total < Duration::from_millis(300), "{report}");
}
