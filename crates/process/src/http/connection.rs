//! One connection, from accept to close.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::Paths;
use super::io::{Line, Socket};
use super::service::Handler;
use crate::server::Phase;
use crate::server::close::close;
use crate::server::connections::{Admitted, Connection, Kind};

/// How long a finishing server waits for the rest of a request that has begun to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(2);

pub(super) fn spawn(stream: TcpStream, admitted: Arc<Admitted>, router: Router, paths: Arc<Paths>) {
    tokio::spawn(drive(admitted, router, paths, stream));
}

async fn drive(admitted: Arc<Admitted>, router: Router, paths: Arc<Paths>, stream: TcpStream) {
    // Without it a small last chunk waits for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let (socket, line, mut returned) = Socket::new(stream, Arc::clone(&admitted));
    let end = serve(&admitted, router, paths, socket).await;
    if admitted.connection.kind().is_upgraded() {
        while_upgraded(&admitted, &line, &mut returned).await;
    } else {
        // At once: the connection has let go of it.
        let _ = returned.await;
    }
    if let (End::Whole, Some(stream)) = (end, line.take()) {
        close(stream).await;
    }
    admitted.is_closed();
}

/// Until what the connection has become lets go of it, or its time is over.
async fn while_upgraded(admitted: &Admitted, line: &Line, returned: &mut oneshot::Receiver<()>) {
    let told = async {
        line.tell().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = returned => {}
        () = told => {}
        () = admitted.shared.reached(Phase::StreamsCut) => {
            line.shut_down();
            // Its handler may wait for something else, for ever.
            admitted.leave();
        }
    }
}

#[derive(PartialEq, Eq)]
enum End {
    /// Everything was sent.
    Whole,
    /// The client is gone, or was cut off.
    Broken,
}

async fn serve(admitted: &Arc<Admitted>, router: Router, paths: Arc<Paths>, socket: Socket) -> End {
    let (shared, its) = (&admitted.shared, &admitted.connection);
    let mut server = auto::Builder::new(TokioExecutor::new());
    // hyper's limit would also close idle connections, without a word, after 30 s.
    server.http1().timer(TokioTimer::new()).header_read_timeout(None);
    server.http2().timer(TokioTimer::new());
    let handler = Handler::new(admitted, router, paths);
    let connection = server.serve_connection_with_upgrades(TokioIo::new(socket), handler);
    let mut connection = std::pin::pin!(connection);
    let (mut leaves, mut finishes) = (false, false);
    loop {
        tokio::select! {
            // What has arrived is read before its end is.
            biased;
            done = connection.as_mut() => return if done.is_ok() { End::Whole } else { End::Broken },
            () = shared.reached(Phase::Cut), if finishes => return End::Broken,
            () = rest_of_the_head(its), if finishes && its.has_half_a_head() => {
                if its.has_half_a_head() {
                    return End::Broken;
                }
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(HEAD_LIMIT), if finishes && its.kind() == Kind::Http2 => {
                // Its client does not answer the ping that comes before the end.
                if its.is_idle() && its.is_still() {
                    return End::Broken;
                }
            }
            () = shared.reached(Phase::Leaving), if !leaves => {
                leaves = true;
                if its.kind() == Kind::Http2 {
                    connection.as_mut().graceful_shutdown();
                }
            }
            () = its.goes_away.notified() => connection.as_mut().graceful_shutdown(),
            () = shared.reached(Phase::Finishing), if !finishes => {
                finishes = true;
                // Told now, one whose request is on its way would be closed before it is whole.
                if !its.has_half_a_head() {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Returns when the rest of a request head is there, or a finishing server has waited long enough for it.
async fn rest_of_the_head(connection: &Connection) {
    let _ = tokio::time::timeout(HEAD_LIMIT, connection.asked.notified()).await;
}
