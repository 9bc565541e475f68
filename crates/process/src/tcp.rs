//! A server of raw TCP connections, as a part that stops without cutting what is in the middle of something.
//!
//! Its drain goes through the states of the [HTTP server](crate::http)'s: told, the listener stays open until no
//! connection has sent its first bytes for [`quiet`](Serve::quiet) (one that sends nothing, as load balancers' checks
//! do, is none); then the listener's queue is emptied and the listener closed, and the handlers are told; they have
//! until the budget, or their [cap](Serve::cap), to come to their end. A protocol has a way to say that a server goes
//! away, or has none: so it is the handler that [hears of it](Connection::stopping), and that decides when it is at a
//! place where it can end. Told earlier, it would send its client away while new ones still come here. A connection on which nothing has come or gone is closed a second after the listener.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use epilogue_scope::record::Context as TaskContext;
use epilogue_task::isolated;

use crate::error::Error;
use crate::part::{Part, Started};
pub use crate::server::ServerHandle;
use crate::server::close::{close, has_unread, shut_down};
use crate::server::connections::{Admitted, Kind, Request, Shared};
use crate::server::{Phase, SHORTEST_QUIET, Times, accept, stop};

/// Serves each connection by `handler`, until the program stops.
///
/// A panic in it is isolated: it ends that connection.
///
/// # Examples
///
/// ```no_run
/// use epilogue_process::{App, Error, tcp};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn body(app: &App) -> Result<(), Error> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7").await?;
/// // A line is a request. What has come of one is kept here, not in a future that may be dropped, as that of
/// // `read_line` would be.
/// let echo = async |mut connection: tcp::Connection| {
///     let stopping = connection.stopping();
///     tokio::pin!(stopping);
///     let mut come = Vec::new();
///     loop {
///         let read = tokio::select! {
///             biased;                                            // what has come is answered first
///             read = connection.read_buf(&mut come) => read,
///             () = &mut stopping, if come.is_empty() => return,  // between two requests
///         };
///         if !read.is_ok_and(|length| length > 0) {
///             return;
///         }
///         while let Some(end) = come.iter().position(|byte| *byte == b'\n') {
///             let line: Vec<u8> = come.drain(..=end).collect();
///             if connection.write_all(&line).await.is_err() {
///                 return;
///             }
///         }
///     }
/// };
/// app.start(tcp::serve(listener, move |connection| echo(connection))).await?;
/// # Ok(()) }
/// ```
pub fn serve<F, Fut>(listener: TcpListener, handler: F) -> Serve<F>
where
    F: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Serve { listener, handler, times: Times::default() }
}

/// A server that has not started; see [`serve`].
#[must_use = "a server serves once it is started: app.start(serve(…)).await?"]
pub struct Serve<F> {
    listener: TcpListener,
    handler: F,
    times: Times,
}

impl<F> Serve<F> {
    /// How long no connection may have sent its first bytes before the listener closes: 1 s unless set, and never
    /// below 0.5 s.
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.times.quiet = quiet.max(SHORTEST_QUIET);
        self
    }

    /// How long the listener stays open in any case: see [`http::Serve::hold_min`](crate::http::Serve::hold_min).
    pub fn hold_min(mut self, hold: Duration) -> Self {
        self.times.hold_min = Some(hold);
        self
    }

    /// How long the listener stays open at most: 10 s or a third of the budget, whichever is less, unless set, and a
    /// [minimum](Serve::hold_min) that is more.
    pub fn hold_max(mut self, hold: Duration) -> Self {
        self.times.hold_max = Some(hold);
        self
    }

    /// How long handlers have once the listener has closed: as long as the budget allows unless set. Then they are
    /// named, their reads and writes fail, and they are dropped at their next `.await`.
    pub fn cap(mut self, cap: Duration) -> Self {
        self.times.stream_cap = Some(cap);
        self
    }
}

impl<F, Fut> Part for Serve<F>
where
    F: Fn(Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    type Handle = ServerHandle;

    fn name(&self) -> String {
        self.listener.local_addr().map_or_else(|_| "tcp".to_owned(), |address| format!("tcp {address}"))
    }

    async fn start(self) -> Result<Started<ServerHandle>, Error> {
        let Serve { listener, handler, times } = self;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(times.within_reason()));
        let handler = Arc::new(handler);
        let begin = move |stream, place| drop(tokio::spawn(drive(stream, place, Arc::clone(&handler))));
        let accepting = tokio::spawn(accept::accept(listener, Arc::clone(&shared), begin));
        let handle = ServerHandle { shared: Arc::clone(&shared), address };
        let (told, asked) = (Arc::clone(&shared), Arc::clone(&shared));
        Ok(Started::new(handle, async move |cx| stop::drain(&shared, accepting, cx).await)
            .on_stopping_because(move |why| told.begins_to_leave(address, why))
            .status(move || asked.in_flight())
            .hurry_cap(Duration::from_millis(2_500))
            .serving())
    }
}

async fn drive<F, Fut>(stream: TcpStream, place: Arc<Admitted>, handler: Arc<F>)
where
    F: Fn(Connection) -> Fut,
    Fut: Future<Output = ()>,
{
    place.connection.becomes(Kind::Raw);
    let busy = place.connection.begin("a connection".into());
    let (back, returned) = oneshot::channel();
    let line: Line = Arc::new(Mutex::new(Some(stream)));
    let connection = Connection {
        line: Arc::clone(&line),
        place: Arc::clone(&place),
        busy: Arc::clone(&busy),
        back: Some(back),
    };
    serve_one(connection, &place, &busy, &line, &*handler).await;
    // One that its handler has given to somebody else is there until that is done with it, or its time is over.
    tokio::select! {
        biased;
        _ = returned => {}
        () = time_is_over(&place, &busy, &line) => {
            if let Some(stream) = &*lock(&line) {
                shut_down(stream);
            }
            // Whoever has it is woken, or waits for something else, for ever. It is closed when they let go of it.
            place.leave();
            return;
        }
    }
    let stream = lock(&line).take();
    if let Some(stream) = stream {
        close(stream).await;
    }
}

/// The socket, where its driver can reach it.
type Line = Arc<Mutex<Option<TcpStream>>>;

fn lock(line: &Line) -> MutexGuard<'_, Option<TcpStream>> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until the handler has ended or its time is over; then it is dropped, and with it the connection.
async fn serve_one<F, Fut>(connection: Connection, place: &Admitted, busy: &Request, line: &Line, handler: &F)
where
    F: Fn(Connection) -> Fut,
    Fut: Future<Output = ()>,
{
    let peer = connection.peer();
    let serving = isolated(TaskContext::of_task("connection"), async { handler(connection).await });
    let mut serving = std::pin::pin!(serving);
    let serving = std::future::poll_fn(|cx| busy.running(|| serving.as_mut().poll(cx)));
    tokio::select! {
        biased;
        ended = serving => {
            if let Err(caught) = ended {
                let what = format!("panicked: {}", caught.describe());
                epilogue_scope::report::noticed(&format!("the handler of {peer}"), &what);
            }
        }
        () = time_is_over(place, busy, line) => {}
    }
}

async fn time_is_over(place: &Admitted, busy: &Request, line: &Line) {
    place.shared.reached(Phase::Finishing).await;
    if place.connection.is_idle() {
        // Its handler may not have come to reading what its client has sent.
        if !lock(line).as_ref().is_some_and(has_unread) {
            return;
        }
        busy.begins();
    }
    place.shared.reached(Phase::StreamsCut).await;
}

/// A connection, until it is dropped; then it is closed in good order.
pub struct Connection {
    line: Line,
    place: Arc<Admitted>,
    busy: Arc<Request>,
    back: Option<oneshot::Sender<()>>,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> SocketAddr {
        self.place.connection.peer()
    }

    /// Returns when the program stops and the listener is closed: from then on the connection is best ended at the
    /// next place where its protocol allows it. Cancel safe.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.place.shared);
        async move { shared.reached(Phase::Closing).await }
    }

    /// Whether that is so by now.
    pub fn is_stopping(&self) -> bool {
        self.place.shared.phase() >= Phase::Closing
    }

    /// Does something with the socket, as long as there is time.
    fn with<T>(&self, act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.place.shared.phase() >= Phase::StreamsCut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut *lock(&self.line) {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn has_read(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (shared, connection) = (&self.place.shared, &self.place.connection);
        if connection.has_sent_nothing() {
            shared.note_demand();
        }
        connection.read(bytes);
        self.busy.begins();
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.with(|stream| stream.poll_read(cx, buf)))?;
        self.has_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.with(|stream| stream.poll_write(cx, bytes)))?;
        self.busy.begins();
        self.busy.sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.place.connection.end(&self.busy);
        if let Some(back) = self.back.take() {
            // Whoever would close it may be gone: then it is closed with this.
            let _ = back.send(());
        }
    }
}
