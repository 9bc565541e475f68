//! One connection, from accept to close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Phase;
use super::connections::{Admitted, Shared};
use super::service::Handler;

/// How long what the client still sends is read and dropped after the last response. Closing with
/// unread bytes resets the connection, over the tail of that response.
const LINGER: Duration = Duration::from_millis(200);

pub(super) fn spawn(shared: &Arc<Shared>, router: &Router, stream: TcpStream, peer: SocketAddr) {
    let admitted = shared.admit(peer);
    tokio::spawn(drive(admitted, router.clone(), stream));
}

async fn drive(admitted: Admitted, router: Router, stream: TcpStream) {
    // Without it a small last chunk waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let shared = Arc::clone(&admitted.shared);
    let handler = Handler::new(&admitted, router);
    let mut connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), handler);
    let mut told = false;
    loop {
        tokio::select! {
            done = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if done.is_ok() {
                    break;
                }
                return;
            }
            () = shared.reached(Phase::Cut), if told => return,
            () = shared.reached(Phase::Finishing), if !told => {
                told = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    close(connection.into_parts().io.into_inner()).await;
}

async fn close(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
