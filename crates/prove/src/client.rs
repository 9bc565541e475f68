//! A small HTTP/1.1 client that knows, byte by byte, what became of a request.
//!
//! A full client hides just what is to be judged here: it retries, it pools, and it calls every
//! end of a connection the same error.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::os;
use crate::outcome::Outcome;

/// A request: method, path, and a body of one content type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// `GET`, `POST`, …
    pub method: String,
    /// The path with its query, starting with `/`.
    pub path: String,
    /// The body and its content type.
    pub body: Option<(String, Vec<u8>)>,
}

impl Ask {
    /// A GET of this path.
    pub fn get(path: impl Into<String>) -> Ask {
        Ask { method: "GET".into(), path: path.into(), body: None }
    }

    pub(crate) fn head(&self, host: SocketAddr, length: Option<usize>) -> String {
        let Ask { method, path, body } = self;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: epilogue-prove\r\n");
        if let Some((kind, _)) = body {
            head.push_str(&format!("content-type: {kind}\r\n"));
        }
        let length = length.or_else(|| body.as_ref().map(|(_, bytes)| bytes.len()));
        match length {
            Some(length) => head.push_str(&format!("content-length: {length}\r\n")),
            None if method == "POST" || method == "PUT" => head.push_str("content-length: 0\r\n"),
            None => {}
        }
        head + "\r\n"
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) location: Option<String>,
    /// The connection can be used again.
    pub(crate) keep_alive: bool,
    /// The server said `Connection: close`, or speaks HTTP/1.0.
    pub(crate) announced_close: bool,
}

impl Answer {
    pub(crate) fn outcome(&self) -> Outcome {
        match (self.status >= 500, self.announced_close) {
            (true, _) => Outcome::Http5xx,
            (false, true) => Outcome::OkClose,
            (false, false) => Outcome::Ok,
        }
    }
}

/// An open connection.
pub(crate) struct Client {
    stream: TcpStream,
    address: SocketAddr,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> Result<Client, Outcome> {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                Ok(Client { stream, address })
            }
            Ok(Err(error)) => Err(match error.kind() {
                io::ErrorKind::ConnectionRefused => Outcome::Refused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Outcome::ClosedUnread,
                io::ErrorKind::TimedOut => Outcome::ConnectTimeout,
                // No port, no descriptor: ours to answer for.
                _ => Outcome::Unsent,
            }),
            Err(_) => Err(Outcome::ConnectTimeout),
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Whether the server has closed, or sent something nobody asked for.
    pub(crate) fn is_closed(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// One request and its whole answer. `on_first_byte` is called when the answer begins.
    pub(crate) async fn ask(
        &mut self,
        ask: &Ask,
        limit: Duration,
        on_first_byte: impl FnMut(),
    ) -> Result<Answer, Outcome> {
        let sending = Sending { acked_before: os::bytes_acked(&self.stream) };
        let mut request = ask.head(self.address, None).into_bytes();
        if let Some((_, body)) = &ask.body {
            request.extend_from_slice(body);
        }
        let exchange = async {
            match self.stream.write_all(&request).await {
                Ok(()) => self.read_answer(&sending, ask.method == "HEAD", on_first_byte).await,
                Err(error) => Err(self.broken(&sending, &error)),
            }
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Outcome::Hang))
    }

    /// A request whose body is sent bit by bit, so that it is in flight as long as it takes.
    pub(crate) async fn drip(
        &mut self,
        ask: &Ask,
        pieces: usize,
        pace: Duration,
        limit: Duration,
    ) -> Result<Answer, Outcome> {
        const PIECE: &[u8] = &[b'.'; 1024];
        let sending = Sending { acked_before: os::bytes_acked(&self.stream) };
        let head = ask.head(self.address, Some(PIECE.len() * pieces));
        let exchange = async {
            let mut sent = self.stream.write_all(head.as_bytes()).await;
            for _ in 0..pieces {
                if sent.is_err() || self.has_answer() {
                    break;
                }
                sent = self.stream.write_all(PIECE).await;
                tokio::time::sleep(pace).await;
            }
            match sent {
                Ok(()) => self.read_answer(&sending, false, || {}).await,
                Err(error) => Err(self.broken(&sending, &error)),
            }
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Outcome::Hang))
    }

    fn has_answer(&self) -> bool {
        os::readable(&self.stream)
    }

    async fn read_answer(
        &mut self,
        sending: &Sending,
        head_only: bool,
        mut on_first_byte: impl FnMut(),
    ) -> Result<Answer, Outcome> {
        let mut seen = Vec::with_capacity(4096);
        loop {
            if let Some((head, at)) = parse_head(&seen) {
                if head.status < 200 {
                    seen.drain(..at);
                    continue;
                }
                return self.read_body(head, seen.split_off(at), head_only).await;
            }
            let before = seen.len();
            match self.stream.read_buf(&mut seen).await {
                Ok(0) => return Err(self.ended(sending, &seen)),
                Ok(_) if before == 0 => on_first_byte(),
                Ok(_) => {}
                Err(_) if !seen.is_empty() => return Err(Outcome::Truncated),
                Err(error) => return Err(self.broken(sending, &error)),
            }
        }
    }

    async fn read_body(&mut self, head: Head, start: Vec<u8>, head_only: bool) -> Result<Answer, Outcome> {
        let mut body = start;
        let bodiless = head_only || head.status == 204 || head.status == 304;
        let framing = if bodiless { Framing::Length(0) } else { head.framing };
        let mut chunks = Chunks::default();
        loop {
            match framing {
                Framing::Length(length) if body.len() >= length => break body.truncate(length),
                Framing::Chunked => match chunks.take_from(&mut body) {
                    Taken::Whole => break body = chunks.content,
                    Taken::More => {}
                    Taken::Garbage => return Err(Outcome::Truncated),
                },
                _ => {}
            }
            match self.stream.read_buf(&mut body).await {
                Ok(0) if framing == Framing::UntilEnd => break,
                Ok(0) | Err(_) => return Err(Outcome::Truncated),
                Ok(_) => {}
            }
        }
        Ok(Answer {
            status: head.status,
            body,
            location: head.location,
            keep_alive: !head.close && framing != Framing::UntilEnd,
            announced_close: head.close,
        })
    }

    /// An end without an answer.
    fn ended(&self, sending: &Sending, seen: &[u8]) -> Outcome {
        match (seen.is_empty(), self.arrived(sending)) {
            (false, _) => Outcome::Truncated,
            (true, true) => Outcome::ClosedAfterSend,
            (true, false) => Outcome::ClosedBeforeSend,
        }
    }

    fn broken(&self, sending: &Sending, error: &io::Error) -> Outcome {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                if self.arrived(sending) {
                    Outcome::Reset
                } else {
                    Outcome::ClosedUnread
                }
            }
            _ => Outcome::Unsent,
        }
    }

    fn arrived(&self, sending: &Sending) -> bool {
        os::bytes_acked(&self.stream) > sending.acked_before
    }
}

struct Sending {
    acked_before: u64,
}

struct Head {
    status: u16,
    framing: Framing,
    location: Option<String>,
    close: bool,
}

fn parse_head(seen: &[u8]) -> Option<(Head, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let at = match response.parse(seen) {
        Ok(httparse::Status::Complete(at)) => at,
        _ => return None,
    };
    let field = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| String::from_utf8_lossy(header.value).into_owned())
    };
    let has =
        |name: &str, word: &str| field(name).is_some_and(|value| value.to_ascii_lowercase().contains(word));
    let framing = if has("transfer-encoding", "chunked") {
        Framing::Chunked
    } else if let Some(length) = field("content-length").and_then(|length| length.trim().parse().ok()) {
        Framing::Length(length)
    } else {
        Framing::UntilEnd
    };
    let old = response.version == Some(0);
    let close = has("connection", "close") || (old && !has("connection", "keep-alive"));
    Some((Head { status: response.code?, framing, location: field("location"), close }, at))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilEnd,
}

enum Taken {
    Whole,
    More,
    Garbage,
}

/// A chunked body as it comes: what is complete is taken out of the buffer.
#[derive(Default)]
struct Chunks {
    content: Vec<u8>,
}

impl Chunks {
    fn take_from(&mut self, body: &mut Vec<u8>) -> Taken {
        let mut used = 0;
        let taken = loop {
            let rest = &body[used..];
            let (start, size) = match httparse::parse_chunk_size(rest) {
                Ok(httparse::Status::Complete((start, size))) => (start, size),
                Ok(httparse::Status::Partial) => break Taken::More,
                Err(_) => break Taken::Garbage,
            };
            let Some(end) = usize::try_from(size).ok().and_then(|size| start.checked_add(size)) else {
                break Taken::Garbage;
            };
            // The chunk, and the line end behind it.
            if rest.len() < end.saturating_add(2) {
                break Taken::More;
            }
            if size == 0 {
                break Taken::Whole;
            }
            self.content.extend_from_slice(&rest[start..end]);
            used += end + 2;
        };
        body.drain(..used);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A server that reads a request, writes `answer`, and then does `end`.
    async fn outcome_of(answer: &'static [u8], end: impl FnOnce(TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(answer).await.unwrap();
            end(stream);
        });
        let mut client = Client::connect(address, LIMIT).await.unwrap();
        let result = client.ask(&Ask::get("/"), LIMIT, || {}).await;
        server.await.unwrap();
        match result {
            Ok(answer) => format!(
                "{} {:?} {}",
                answer.outcome().name(),
                String::from_utf8_lossy(&answer.body),
                answer.keep_alive
            ),
            Err(outcome) => outcome.name().to_owned(),
        }
    }

    #[tokio::test]
    async fn whole_answers_are_told_from_cut_ones() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(outcome_of(whole, drop).await, "ok \"hello\" true");
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel";
        assert_eq!(outcome_of(cut, drop).await, "truncated");
        let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(outcome_of(chunks, drop).await, "ok \"abcde\" true");
        let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        assert_eq!(outcome_of(cut, drop).await, "truncated");
        let half_a_head = b"HTTP/1.1 200 OK\r\nconte";
        assert_eq!(outcome_of(half_a_head, drop).await, "truncated");
        let old = b"HTTP/1.0 200 OK\r\n\r\nuntil the end";
        assert_eq!(outcome_of(old, drop).await, "ok_close \"until the end\" false");
        let close = b"HTTP/1.1 503 Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(outcome_of(close, drop).await, "http_5xx \"\" false");
        let continued = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(outcome_of(continued, drop).await, "ok \"\" true");
    }

    #[tokio::test]
    async fn an_end_without_an_answer_says_whether_the_request_had_arrived() {
        assert_eq!(outcome_of(b"", drop).await, "closed_after_send");
        let reset = |stream: TcpStream| os::reset(&stream);
        assert_eq!(outcome_of(b"", reset).await, "reset");
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_a_silent_server_hangs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = Client::connect(address, LIMIT).await.unwrap();
        let silent = client.ask(&Ask::get("/"), Duration::from_millis(50), || {}).await;
        assert_eq!(silent.err(), Some(Outcome::Hang));
        drop(listener);
        assert_eq!(Client::connect(address, LIMIT).await.err(), Some(Outcome::Refused));
    }
}
