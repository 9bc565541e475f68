//! The drain of connections that carry more than one request, or none with an end: HTTP/2, WebSocket, gRPC.
#![cfg(feature = "axum")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use bytes::Bytes;
use epilogue_process::{App, ExitReport, Options, StepOutcome, http, run_with};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite;

mod rig;

/// The program that `EPILOGUE_TEST_PROGRAM` names, and nothing when none is named.
#[test]
fn program() {
    if std::env::var(rig::PROGRAM).is_ok_and(|name| name == "exits-in-a-stream") {
        exits_in_a_stream();
    }
}

struct Server {
    address: SocketAddr,
    app: App,
    handle: http::ServerHandle,
    ended: tokio::task::JoinHandle<ExitReport>,
}

async fn serve(router: Router, with: impl FnOnce(http::Serve) -> http::Serve + Send + 'static) -> Server {
    serve_for(router, Duration::from_secs(30), with).await
}

async fn serve_for(
    router: Router,
    grace: Duration,
    with: impl FnOnce(http::Serve) -> http::Serve + Send + 'static,
) -> Server {
    let (tell, told) = oneshot::channel();
    let ended = tokio::spawn(async move {
        let body = async move |app: &App| {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let handle = app.start(with(http::serve(listener, router))).await?;
            let _ = tell.send((handle, app.clone()));
            Ok(())
        };
        run_with(Options::embedded().grace(grace), body).await.1
    });
    let (handle, app) = told.await.unwrap();
    Server { address: handle.local_addr(), app, handle, ended }
}

impl Server {
    async fn until_in_flight(&self, wanted: usize) {
        while self.handle.in_flight() != wanted {
            tokio::task::yield_now().await;
        }
    }

    async fn until_closed(&self) {
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// `/slow` answers when the test lets it.
fn slow(go: mpsc::Receiver<()>) -> Router {
    let go = std::sync::Arc::new(tokio::sync::Mutex::new(go));
    let handler = move || async move {
        go.lock().await.recv().await;
        "at last"
    };
    Router::new().route("/", get(|| async { "hello" })).route("/slow", get(handler))
}

async fn http2(address: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn to(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://test{path}")).body(Empty::new()).unwrap()
}

async fn text(answer: impl Future<Output = hyper::Result<hyper::Response<hyper::body::Incoming>>>) -> String {
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Until the client has heard that its connection is the last.
async fn until_told(client: &mut SendRequest<Empty<Bytes>>) {
    while client.ready().await.is_ok() && !client.is_closed() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn http2_is_told_at_once_what_is_in_flight_is_answered_and_who_comes_back_is_served() {
    let (go, gone) = mpsc::channel(1);
    let server = serve(slow(gone), |serve| serve).await;
    let mut client = http2(server.address).await;
    assert_eq!(text(client.send_request(to("/"))).await, "hello");
    let in_flight = tokio::spawn(text(client.send_request(to("/slow"))));
    server.until_in_flight(1).await;
    let mut second = http2(server.address).await;
    assert_eq!(text(second.send_request(to("/"))).await, "hello");
    server.app.stop();
    until_told(&mut second).await;
    // The listener is still open, and who was told comes back by a connection of one answer.
    let mut third = http2(server.address).await;
    assert_eq!(text(third.send_request(to("/"))).await, "hello");
    until_told(&mut third).await;
    go.send(()).await.unwrap();
    assert_eq!(in_flight.await.unwrap(), "at last");
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0, "{report}");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn streams_of_one_connection_that_are_cut_are_named_one_by_one() {
    let (_go, gone) = mpsc::channel(1);
    let server = serve_for(slow(gone), Duration::from_secs(2), |serve| serve).await;
    let mut client = http2(server.address).await;
    assert_eq!(text(client.send_request(to("/"))).await, "hello");
    let hanging: Vec<_> = (0..3).map(|_| tokio::spawn(client.send_request(to("/slow")))).collect();
    server.until_in_flight(3).await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    let step = &report.steps[0];
    assert_eq!((report.code, step.abandoned.len()), (124, 3), "{report}");
    assert!(step.abandoned.iter().all(|what| what.starts_with("GET /slow from 127.0.0.1:")), "{report}");
    for one in hanging {
        assert!(one.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn idle_http2_connections_hold_nothing_up() {
    let (_go, gone) = mpsc::channel(1);
    let server = serve(slow(gone), |serve| serve).await;
    let mut silent = http2(server.address).await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0, "{report}");
    assert!(report.total < Duration::from_millis(900), "{report}");
    until_told(&mut silent).await;
}

/// Says back what it is told; sends `large` first, if that is not empty.
fn chat(large: Vec<u8>) -> Router {
    let talk = async move |mut socket: WebSocket, large: Vec<u8>| {
        if !large.is_empty() && socket.send(Message::Binary(large.into())).await.is_err() {
            return;
        }
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
                return;
            }
        }
    };
    let upgrade = move |upgrade: WebSocketUpgrade| {
        let large = large.clone();
        async move { upgrade.on_upgrade(move |socket| talk(socket, large)) }
    };
    Router::new().route("/chat", get(upgrade))
}

type Client = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn websocket(address: SocketAddr) -> Client {
    tokio_tungstenite::connect_async(format!("ws://{address}/chat")).await.unwrap().0
}

fn is_going_away(message: Option<Result<tungstenite::Message, tungstenite::Error>>) -> bool {
    use tungstenite::protocol::frame::coding::CloseCode;
    matches!(message, Some(Ok(tungstenite::Message::Close(Some(close)))) if close.code == CloseCode::Away)
}

#[tokio::test]
async fn a_websocket_is_told_that_the_server_goes_away_and_its_handler_need_not_know() {
    let server = serve(chat(Vec::new()), |serve| serve).await;
    let mut client = websocket(server.address).await;
    client.send("hello".into()).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap().into_text().unwrap(), "hello");
    server.app.stop();
    assert!(is_going_away(client.next().await));
    assert!(client.next().await.is_none(), "and then it is closed");
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0, "{report}");
    assert!(!report.to_string().contains("did not end"), "{report}");
}

#[tokio::test]
async fn a_message_that_is_half_sent_is_sent_to_its_end_first() {
    const LARGE: usize = 8 << 20;
    let server = serve(chat(vec![7; LARGE]), |serve| serve).await;
    let mut client = websocket(server.address).await;
    server.app.stop();
    // More than the sockets hold, and nobody reads: the server is in the middle of it when it closes.
    server.until_closed().await;
    assert_eq!(client.next().await.unwrap().unwrap().into_data().len(), LARGE);
    assert!(is_going_away(client.next().await));
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn a_websocket_that_does_not_listen_is_cut_at_its_cap_and_named() {
    let server = serve(chat(Vec::new()), |serve| serve.stream_cap(Duration::from_millis(300))).await;
    // Reads nothing, so answers nothing.
    let _client = websocket(server.address).await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    let told = report.to_string();
    assert!(told.contains("did not end when it was told: GET /chat from 127.0.0.1:"), "{told}");
    assert!(matches!(report.steps[0].outcome, StepOutcome::Ok) && report.code == 0, "{told}");
    assert!(report.total < Duration::from_secs(5), "{told}");
}

#[tokio::test]
async fn a_herd_of_websockets_is_told_and_gone() {
    let server = serve(chat(Vec::new()), |serve| serve).await;
    let mut herd = Vec::new();
    for _ in 0..200 {
        herd.push(websocket(server.address).await);
    }
    server.app.stop();
    let told = herd.into_iter().map(|mut client| async move { is_going_away(client.next().await) });
    assert!(futures_util::future::join_all(told).await.into_iter().all(|told| told));
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn a_grpc_call_that_takes_longer_than_streams_may_is_answered_all_the_same() {
    const CAP: Duration = Duration::from_millis(100);
    let (go, gone) = mpsc::channel::<()>(1);
    let gone = std::sync::Arc::new(tokio::sync::Mutex::new(gone));
    let call = move || async move {
        gone.lock().await.recv().await;
        ([("content-type", "application/grpc+proto")], "at last")
    };
    let server = serve(Router::new().route("/call", get(call)), |serve| serve.stream_cap(CAP)).await;
    let mut client = http2(server.address).await;
    let in_flight = tokio::spawn(text(client.send_request(to("/call"))));
    server.until_in_flight(1).await;
    server.app.stop();
    server.until_closed().await;
    tokio::time::sleep(3 * CAP).await;
    go.send(()).await.unwrap();
    assert_eq!(in_flight.await.unwrap(), "at last");
    assert_eq!(server.ended.await.unwrap().code, 0);
}

#[tokio::test]
async fn a_grpc_stream_ends_as_unavailable_when_its_time_is_over() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("orders", tonic_health::ServingStatus::Serving).await;
    let router = tonic::service::Routes::new(health).into_axum_router();
    let server = serve(router, |serve| serve.stream_cap(Duration::from_millis(300))).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let orders = || HealthCheckRequest { service: "orders".into() };
    client.check(orders()).await.unwrap();
    let mut watch = client.watch(orders()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    server.app.stop();
    let error = watch.message().await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
    assert_eq!(error.message(), "the server is stopping");
    let report = server.ended.await.unwrap();
    assert_eq!(report.code, 0, "{report}");
}

/// Whatever comes is answered with `status`, and its connection is then a tunnel to `tunnel`.
fn tunnels<F>(status: StatusCode, tunnel: fn(TokioIo<hyper::upgrade::Upgraded>) -> F) -> Router
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = move |request: Request<Body>| async move {
        tokio::spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                tunnel(TokioIo::new(upgraded)).await;
            }
        });
        let mut answer = hyper::Response::new(Body::empty());
        *answer.status_mut() = status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert("connection", "upgrade".parse().unwrap());
            answer.headers_mut().insert("upgrade", "echo".parse().unwrap());
        }
        answer
    };
    Router::new().fallback(upgrade)
}

/// Until the head of the response has come.
async fn opened(address: SocketAddr, head: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(client.read_u8().await.unwrap());
    }
    client
}

#[tokio::test]
async fn a_tunnel_is_cut_at_the_cap_of_streams_and_named() {
    let echo = |tunnel: TokioIo<hyper::upgrade::Upgraded>| async {
        let (mut read, mut write) = tokio::io::split(tunnel);
        let _ = tokio::io::copy(&mut read, &mut write).await;
    };
    let router = tunnels(StatusCode::OK, echo);
    let server = serve(router, |serve| serve.stream_cap(Duration::from_millis(300))).await;
    let mut client = opened(server.address, "CONNECT test:1 HTTP/1.1\r\nhost: test:1\r\n\r\n").await;
    client.write_all(b"hello").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    server.app.stop();
    let report = server.ended.await.unwrap();
    let told = report.to_string();
    assert!(told.contains("did not end when it was told: CONNECT"), "{told}");
    assert!(report.code == 0 && report.total < Duration::from_secs(5), "{told}");
}

#[tokio::test]
async fn who_reads_and_who_writes_a_tunnel_are_both_told_that_its_time_is_over() {
    // One waits for a client that says nothing, the other for one that reads nothing.
    let two = |tunnel: TokioIo<hyper::upgrade::Upgraded>| async {
        let (mut read, mut write) = tokio::io::split(tunnel);
        let writes = tokio::spawn(async move { while write.write_all(&[7; 1 << 16]).await.is_ok() {} });
        assert!(read.read_u8().await.is_err());
        writes.await.unwrap();
    };
    let router = tunnels(StatusCode::SWITCHING_PROTOCOLS, two);
    let server = serve(router, |serve| serve.stream_cap(Duration::from_millis(300))).await;
    let head = "GET /two HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let _client = opened(server.address, head).await;
    server.app.stop();
    let report = server.ended.await.unwrap();
    assert!(report.code == 0 && report.total < Duration::from_secs(5), "{report}");
}

/// Two requests on one connection: one exits, the other is answered once the listener is closed.
fn exits_in_a_stream() {
    let code = epilogue_process::main(async |app: &App| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let exits = || async {
            std::process::exit(3);
            #[allow(unreachable_code)]
            ""
        };
        let slow = move || async move {
            while TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            "at last"
        };
        let router = Router::new().route("/exits", get(exits)).route("/slow", get(slow));
        let server = http::serve(listener, router)
            .quiet(Duration::from_millis(500))
            .idle_linger(Duration::from_millis(10));
        let server = app.start(server).await?;
        let mut client = http2(address).await;
        let answer = client.send_request(to("/slow"));
        while server.in_flight() != 1 {
            tokio::task::yield_now().await;
        }
        println!("ready");
        drop(tokio::spawn(client.send_request(to("/exits"))));
        println!("the other one: {}", text(answer).await);
        Ok(())
    });
    assert_eq!(code, std::process::ExitCode::SUCCESS, "exit was called");
}

#[test]
fn an_exit_in_one_stream_does_not_cut_the_others_of_its_connection() {
    let mut running = rig::start("exits-in-a-stream");
    running.wait_for("the other one: at last");
    let (status, took, said) = running.end();
    assert_eq!(status.code(), Some(3), "{said}");
    assert!(said.contains("exit was called by GET /exits"), "{said}");
    assert!(took < Duration::from_secs(8), "{took:?}: {said}");
}

#[tokio::test]
async fn an_http2_response_that_is_read_slowly_is_sent_to_its_end() {
    const LARGE: usize = 8 << 20;
    let large = get(|| async { Bytes::from(vec![b'.'; LARGE]) });
    let server = serve(Router::new().route("/large", large), |serve| serve).await;
    let mut client = http2(server.address).await;
    let mut body = client.send_request(to("/large")).await.unwrap().into_body();
    let mut seen = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    server.app.stop();
    server.until_closed().await;
    // Idle connections are closed a second after the listener, and two more are for a ping that is not answered.
    tokio::time::sleep(Duration::from_secs(4)).await;
    while let Some(frame) = body.frame().await {
        seen += frame.unwrap().into_data().map_or(0, |data| data.len());
    }
    assert_eq!(seen, LARGE);
    let report = server.ended.await.unwrap();
    assert_eq!((report.code, report.abandoned()), (0, Vec::new()), "{report}");
}

#[tokio::test]
async fn websockets_whose_handlers_never_come_to_their_sockets_are_told_and_cut() {
    let push = |upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(async |socket| {
            let _socket = socket;
            std::future::pending::<()>().await;
        })
    };
    let router = Router::new().route("/chat", get(push));
    let server = serve(router, |serve| serve.stream_cap(Duration::from_millis(1500))).await;
    // More than are told at once.
    let mut herd = Vec::new();
    for _ in 0..60 {
        herd.push(websocket(server.address).await);
    }
    server.app.stop();
    for client in &mut herd {
        assert!(is_going_away(client.next().await), "told, although nobody reads or writes");
    }
    let report = server.ended.await.unwrap();
    assert!(report.code == 0 && report.total < Duration::from_secs(5), "{report}");
}
