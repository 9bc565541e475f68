//! The accept loop, until the listener's queue is empty and the listener closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::Phase;
use super::connections::{Admitted, Shared};

/// Accepts until the server is closing. Returns how many were still queued then and are its own.
pub(crate) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    begin: impl Fn(TcpStream, Arc<Admitted>),
) -> usize {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => begin(stream, Arc::new(shared.admit(peer))),
                Err(error) => rest(&error).await,
            },
            () = shared.reached(Phase::Closing) => break,
        }
    }
    if shared.is_handed_over() {
        // What is queued is the other generation's.
        return 0;
    }
    empty_queue(listener, &shared, &begin).unwrap_or_else(|error| {
        crate::os::say(&format!("epilogue: closing the listener: {error}"));
        0
    })
}

/// Accepts what the kernel has queued, then closes: a plain close resets every queued connection.
fn empty_queue(
    listener: TcpListener,
    shared: &Arc<Shared>,
    begin: &impl Fn(TcpStream, Arc<Admitted>),
) -> io::Result<usize> {
    let listener = listener.into_std()?;
    let mut queued = 0;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                begin(TcpStream::from_std(stream)?, Arc::new(shared.admit(peer)));
                queued += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(queued),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// After an error of `accept`: out of descriptors or memory passes when a connection ends, so the
/// loop waits a little instead of spinning.
async fn rest(error: &io::Error) {
    if !is_of_one_connection(error) {
        crate::os::say(&format!("epilogue: accept: {error}; trying again in 100 ms"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
