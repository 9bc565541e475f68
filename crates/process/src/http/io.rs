//! A connection's socket, as hyper and what it upgrades to use it: counted until the last of them lets go, told
//! when the server goes away, cut when its time is over.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::frames::{Frames, GOING_AWAY};
use crate::server::Phase;
use crate::server::connections::{Admitted, Kind};

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The socket as who speaks HTTP, or what comes after, sees it. Dropped, whoever drives the connection hears of it.
pub(super) struct Socket {
    line: Line,
    back: Option<oneshot::Sender<()>>,
}

/// The same, for whoever drives the connection. What it has become may wait for something else than its socket:
/// then nobody but this one can tell its client, or cut it.
#[derive(Clone)]
pub(super) struct Line {
    admitted: Arc<Admitted>,
    state: Arc<Mutex<State>>,
}

struct State {
    stream: Option<TcpStream>,
    /// For a connection that is a WebSocket by now.
    frames: Frames,
    away: Away,
    /// Of a connection that was upgraded: its time is over.
    cut: Option<Wait>,
    /// Of a connection that was upgraded: who reads, who writes and who drives it may be three.
    all: Arc<All>,
}

/// Whoever last read the connection, wrote it and drove it: what none of them has to itself (the socket's readiness
/// for a close frame of ours, the phases of the server) wakes all.
#[derive(Default)]
struct All(Mutex<[Option<Waker>; 3]>);

#[derive(Clone, Copy)]
enum Who {
    Reads,
    Writes,
    Drives,
}

impl All {
    /// The waker of all, of whom one is calling.
    fn with(self: &Arc<All>, who: Who, cx: &Context<'_>) -> Waker {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut wakers[who as usize] {
            Some(known) => known.clone_from(cx.waker()),
            unknown => *unknown = Some(cx.waker().clone()),
        }
        Waker::from(Arc::clone(self))
    }
}

impl Wake for All {
    fn wake(self: Arc<All>) {
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
    /// The socket of a connection, what its driver has of it, and how that learns that it was let go.
    pub(super) fn new(stream: TcpStream, admitted: Arc<Admitted>) -> (Socket, Line, oneshot::Receiver<()>) {
        let (back, returned) = oneshot::channel();
        let state = State {
            stream: Some(stream),
            frames: Frames::default(),
            away: Away::NotYet(None),
            cut: None,
            all: Arc::default(),
        };
        let line = Line { admitted, state: Arc::new(Mutex::new(state)) };
        (Socket { line: line.clone(), back: Some(back) }, line, returned)
    }
}

impl Line {
    /// Tells a WebSocket that the server goes away, when that is so; as far as nobody is in the middle of a frame.
    pub(super) async fn tell(&self) {
        if self.is_websocket() {
            Arc::clone(&self.admitted).its_turn_to_be_told().await;
            std::future::poll_fn(|cx| {
                let mut state = self.state();
                if let Away::NotYet(_) = state.away {
                    state.away = Away::Due;
                }
                let all = state.all.with(Who::Drives, cx);
                state.tell(&self.admitted, &mut Context::from_waker(&all))
            })
            .await
            // Whoever reads or writes it learns of it too.
            .unwrap_or_default();
        }
    }

    /// Ends it for both sides: whoever waits for it is woken.
    pub(super) fn shut_down(&self) {
        if let Some(stream) = &self.state().stream {
            crate::server::close::shut_down(stream);
        }
    }

    /// The socket, to be closed in good order.
    pub(super) fn take(&self) -> Option<TcpStream> {
        self.state().stream.take()
    }

    fn is_upgraded(&self) -> bool {
        self.admitted.connection.kind().is_upgraded()
    }

    fn is_websocket(&self) -> bool {
        self.admitted.connection.kind() == Kind::WebSocket
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether its time is over; else wakes when it is.
    fn is_cut(&mut self, admitted: &Admitted, cx: &mut Context<'_>) -> bool {
        let shared = &admitted.shared;
        if shared.phase() >= Phase::StreamsCut {
            return true;
        }
        let cut = self.cut.get_or_insert_with(|| {
            let shared = Arc::clone(shared);
            Box::pin(async move { shared.reached(Phase::StreamsCut).await })
        });
        cut.as_mut().poll(cx).is_ready()
    }

    /// Tells a WebSocket that the server goes away, once it does and a frame may begin. `Pending`: the close
    /// frame is half written, and nothing else may be.
    fn tell(&mut self, admitted: &Arc<Admitted>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Away::NotYet(wait) = &mut self.away {
            let wait = wait.get_or_insert_with(|| Box::pin(Arc::clone(admitted).its_turn_to_be_told()));
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
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = &self.line;
        let mut state = line.state();
        if line.is_upgraded() {
            let all = state.all.with(Who::Reads, cx);
            let all = &mut Context::from_waker(&all);
            if state.is_cut(&line.admitted, all) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            // Half written it goes on when the socket takes more; there may be something to read meanwhile.
            if line.is_websocket()
                && let Poll::Ready(told) = state.tell(&line.admitted, all)
            {
                told?;
            }
        }
        let before = buf.filled().len();
        ready!(state.stream()?.poll_read(cx, buf))?;
        line.admitted.connection.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = &self.line;
        let mut state = line.state();
        if !line.is_upgraded() {
            let written = ready!(state.stream()?.poll_write(cx, bytes))?;
            line.admitted.connection.wrote(written);
            return Poll::Ready(Ok(written));
        }
        let all = state.all.with(Who::Writes, cx);
        let all = &mut Context::from_waker(&all);
        if state.is_cut(&line.admitted, all) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if !line.is_websocket() {
            return state.stream()?.poll_write(all, bytes);
        }
        ready!(state.tell(&line.admitted, all))?;
        if matches!(state.away, Away::Told) && !state.frames.is_closed() {
            // Nothing may follow a close frame; who writes does not know of ours yet. It may write for ever, and
            // others want their turn.
            ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(state.stream()?.poll_write(all, bytes))?;
        state.frames.wrote(&bytes[..written]);
        // That may have been the end of the frame that it had to wait for.
        if let Poll::Ready(told) = state.tell(&line.admitted, all) {
            told?;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.line.is_upgraded() {
            let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return self.poll_write(cx, first);
        }
        let written = ready!(self.line.state().stream()?.poll_write_vectored(cx, parts))?;
        self.line.admitted.connection.wrote(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.state().stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.state().stream()?.poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Whoever would close it may be gone: then it is closed with this.
            let _ = back.send(());
        }
    }
}
