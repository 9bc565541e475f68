//! One connection, from accept to close.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::Phase;
use super::connections::{Admitted, Connection, Shared};
use super::service::Handler;

/// How long what the client still sends is read and dropped after the last response. Closing with
/// unread bytes resets the connection, over the tail of that response.
const LINGER: Duration = Duration::from_millis(200);
/// How long a finishing server waits for the rest of a request that has begun to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(2);

pub(super) fn spawn(shared: &Arc<Shared>, router: &Router, stream: TcpStream, peer: SocketAddr) {
    let admitted = shared.admit(peer);
    tokio::spawn(drive(admitted, router.clone(), stream));
}

async fn drive(admitted: Admitted, router: Router, mut stream: TcpStream) {
    // Without it a small last chunk waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    if serve(&admitted, router, &mut stream).await == End::Whole {
        close(stream).await;
    }
}

#[derive(PartialEq, Eq)]
enum End {
    /// Everything was sent, and the sending side is closed.
    Whole,
    /// The client is gone, or was cut off.
    Broken,
}

async fn serve(admitted: &Admitted, router: Router, stream: &mut TcpStream) -> End {
    let shared = Arc::clone(&admitted.shared);
    let handler = Handler::new(admitted, router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper's limit would also close idle connections, without a word, after 30 s.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), handler);
    let mut connection = std::pin::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => return if done.is_ok() { End::Whole } else { End::Broken },
            () = shared.reached(Phase::Cut), if told => return End::Broken,
            () = half_a_head(&admitted.connection), if told => return End::Broken,
            () = shared.reached(Phase::Finishing), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Returns if a finishing server has waited long enough for the rest of a first request.
async fn half_a_head(connection: &Connection) {
    tokio::time::sleep(HEAD_LIMIT).await;
    if connection.has_asked() {
        std::future::pending::<()>().await;
    }
}

async fn close(mut stream: TcpStream) {
    let drain = async {
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}
