//! A connection's socket, as hyper and what it upgrades to use it: counted until the last of them lets go, told
//! when the server goes away, cut when its time is over.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::frames::{Frames, GOING_AWAY};
use crate::server::Phase;
use crate::server::connections::{Admitted, Kind};

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The socket. Dropped, it goes back to whoever closes it.
pub(super) struct Socket {
    stream: Option<TcpStream>,
    admitted: Arc<Admitted>,
    back: Option<oneshot::Sender<TcpStream>>,
    /// For a connection that is a WebSocket by now.
    frames: Frames,
    away: Away,
    /// Of a connection that was upgraded: its time is over.
    cut: Option<Wait>,
    /// Of a connection that was upgraded: who reads and who writes it may be two.
    both: Arc<Both>,
}

/// Whoever last read the connection, and whoever last wrote it: what neither of them has to itself (the socket's
/// readiness for a close frame of ours, the phases of the server) wakes both.
#[derive(Default)]
struct Both(Mutex<[Option<Waker>; 2]>);

#[derive(Clone, Copy)]
enum Who {
    Reads,
    Writes,
}

impl Both {
    /// The waker of both, of whom one is calling.
    fn with(self: &Arc<Both>, who: Who, cx: &Context<'_>) -> Waker {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut wakers[who as usize] {
            Some(known) => known.clone_from(cx.waker()),
            unknown => *unknown = Some(cx.waker().clone()),
        }
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Both {
    fn wake(self: Arc<Both>) {
        let wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// How far a WebSocket has been told that the server goes away.
enum Away {
    NotYet(Option<Wait>),
    /// It is to be told as soon as a frame may begin.
    Due,
    /// So many bytes of the close frame are written.
    Telling(usize),
    Told,
}

impl Socket {
    /// The socket of a connection, and where it comes back to.
    pub(super) fn new(stream: TcpStream, admitted: Arc<Admitted>) -> (Socket, oneshot::Receiver<TcpStream>) {
        let (back, returned) = oneshot::channel();
        let (frames, away) = (Frames::default(), Away::NotYet(None));
        let socket = Socket {
            stream: Some(stream),
            admitted,
            back: Some(back),
            frames,
            away,
            cut: None,
            both: Arc::default(),
        };
        (socket, returned)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn is_upgraded(&self) -> bool {
        self.admitted.connection.kind().is_upgraded()
    }

    fn is_websocket(&self) -> bool {
        self.admitted.connection.kind() == Kind::WebSocket
    }

    /// Whether its time is over; else wakes when it is.
    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let shared = Arc::clone(&self.admitted.shared);
        let cut =
            self.cut.get_or_insert_with(|| Box::pin(async move { shared.reached(Phase::StreamsCut).await }));
        cut.as_mut().poll(cx).is_ready()
    }

    /// Tells a WebSocket that the server goes away, once it does and a frame may begin. `Pending`: the close
    /// frame is half written, and nothing else may be.
    fn tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Away::NotYet(wait) = &mut self.away {
            let place = &self.admitted;
            let wait = wait.get_or_insert_with(|| Box::pin(Arc::clone(place).its_turn_to_be_told()));
            if wait.as_mut().poll(cx).is_ready() {
                self.away = Away::Due;
            }
        }
        if matches!(self.away, Away::Due) && self.frames.is_between() {
            self.away = if self.frames.is_closed() { Away::Told } else { Away::Telling(0) };
        }
        while let Away::Telling(written) = self.away {
            let more = ready!(self.stream()?.poll_write(cx, &GOING_AWAY[written..]))?;
            let written = written + more;
            self.away = if written < GOING_AWAY.len() { Away::Telling(written) } else { Away::Told };
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_upgraded() {
            let both = this.both.with(Who::Reads, cx);
            let both = &mut Context::from_waker(&both);
            if this.is_cut(both) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            // Half written it goes on when the socket takes more; there may be something to read meanwhile.
            if this.is_websocket()
                && let Poll::Ready(told) = this.tell(both)
            {
                told?;
            }
        }
        let before = buf.filled().len();
        ready!(this.stream()?.poll_read(cx, buf))?;
        this.admitted.connection.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if !this.is_upgraded() {
            return this.stream()?.poll_write(cx, bytes);
        }
        let both = this.both.with(Who::Writes, cx);
        let both = &mut Context::from_waker(&both);
        if this.is_cut(both) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if !this.is_websocket() {
            return this.stream()?.poll_write(both, bytes);
        }
        ready!(this.tell(both))?;
        if matches!(this.away, Away::Told) && !this.frames.is_closed() {
            // Nothing may follow a close frame; who writes does not know of ours yet. It may write for ever, and
            // others want their turn.
            ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(this.stream()?.poll_write(both, bytes))?;
        this.frames.wrote(&bytes[..written]);
        // That may have been the end of the frame that it had to wait for.
        if let Poll::Ready(told) = this.tell(both) {
            told?;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_upgraded() {
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return self.poll_write(cx, first);
        }
        self.stream()?.poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Whoever would close it may be gone: then it is closed here.
            drop(back.send(stream));
        }
    }
}
