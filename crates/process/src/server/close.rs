//! How a connection is closed.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long what the client still sends is read and dropped after the last response. Closing with
/// unread bytes resets the connection, over the tail of that response.
const LINGER: Duration = Duration::from_millis(200);

pub(crate) async fn close(mut stream: TcpStream) {
    let _ = stream.shutdown().await;
    let drain = async {
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Ends a connection that somebody else is using: whoever waits for it is woken, and told that it is over.
pub(crate) fn shut_down(stream: &TcpStream) {
    if let Some(stream) = copy(stream) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// Whether something has come that nobody has read.
pub(crate) fn has_unread(stream: &TcpStream) -> bool {
    copy(stream).is_some_and(|stream| stream.peek(&mut [0]).is_ok_and(|waiting| waiting > 0))
}

/// The same socket once more, for a moment. It does not block: that is a property of the socket.
fn copy(stream: &TcpStream) -> Option<std::net::TcpStream> {
    stream.as_fd().try_clone_to_owned().ok().map(Into::into)
}
