//! The control socket: `status` on a Unix socket, for operators on the machine.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Binds the socket, also over one that a dead process left behind: the lock file says that no
/// other service uses this directory.
///
/// # Errors
///
/// When the old socket cannot be removed or the new one not bound.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
        .map_err(|error| io::Error::new(error.kind(), format!("control socket {}: {error}", path.display())))
}

/// Answers until `stop` is over.
pub async fn serve(listener: UnixListener, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream))),
                Err(error) => {
                    eprintln!("orders: control socket: {error}");
                    return;
                }
            },
        }
    }
}

async fn answer(stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let reply = match line.trim() {
            "status" => format!("serving, pid {}\n", std::process::id()),
            other => format!("unknown command {other:?}; try status\n"),
        };
        write.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}
