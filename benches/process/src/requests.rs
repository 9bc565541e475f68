//! What it costs each request that it can be named while it is in flight: beside axum's own server.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use epilogue::{App, Options, http, run_with};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: usize = 16;
const REQUESTS: u32 = 2_000;

pub(crate) fn measure() {
    // A core for each side.
    let (server, client) = (one_thread(), one_thread());
    let plain = server.block_on(serve_plain());
    let ours = server.block_on(serve_ours());
    std::thread::spawn(move || server.block_on(std::future::pending::<()>()));
    crate::compare(
        "a request over keep-alive",
        60,
        &[
            ("axum::serve", &|| client.block_on(load(plain))),
            ("http::serve", &|| client.block_on(load(ours))),
        ],
    );
}

fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn router() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

async fn serve_plain() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async { axum::serve(listener, router()).await });
    address
}

async fn serve_ours() -> SocketAddr {
    let (tell, told) = tokio::sync::oneshot::channel();
    tokio::spawn(run_with(Options::embedded(), async move |app: &App| {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = app.start(http::serve(listener, router())).await?;
        let _ = tell.send(server.local_addr());
        Ok(())
    }));
    told.await.expect("it serves")
}

/// The time of one request, all of them together.
async fn load(address: SocketAddr) -> Duration {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await.expect("it listens");
        let _ = stream.set_nodelay(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (client, connection) = handshake.expect("it speaks HTTP");
        tokio::spawn(connection);
        connections.push(client);
    }
    let began = Instant::now();
    let asking: Vec<_> = connections.into_iter().map(|client| tokio::spawn(ask(client))).collect();
    for one in asking {
        one.await.expect("no panic");
    }
    began.elapsed() / (REQUESTS * u32::try_from(CONNECTIONS).expect("few"))
}

async fn ask(mut client: SendRequest<Empty<Bytes>>) {
    for _ in 0..REQUESTS {
        client.ready().await.expect("it goes on");
        let request = Request::get("/").header(HOST, "test").body(Empty::new()).expect("a request");
        let answer = client.send_request(request).await.expect("an answer");
        answer.into_body().collect().await.expect("a whole one");
    }
}
