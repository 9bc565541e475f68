//! The clients: one connection each, one request after the other, no second try.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

type Body = Empty<Bytes>;

pub(crate) struct Clients {
    over: Arc<AtomicBool>,
    of: [(&'static str, Arc<Counts>); 2],
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    lost: Mutex<BTreeMap<String, u64>>,
}

/// What came of the requests of one protocol.
pub(crate) struct Counted {
    pub(crate) answered: u64,
    pub(crate) lost: BTreeMap<String, u64>,
}

impl Counted {
    pub(crate) fn all(&self) -> u64 {
        self.answered + self.lost.values().sum::<u64>()
    }
}

impl Clients {
    pub(crate) fn start(port: u16, connections: usize) -> Clients {
        let over = Arc::new(AtomicBool::new(false));
        let of = [("HTTP/1.1", Arc::default()), ("HTTP/2", Arc::default())];
        let address = ([127, 0, 0, 1], port).into();
        let mut tasks = Vec::new();
        for client in 0..connections {
            // Every fourth has time to think between two requests.
            let think = Duration::from_millis(if client % 4 == 0 { 400 } else { 0 });
            for (two, (_, counts)) in of.iter().enumerate() {
                let (over, counts) = (Arc::clone(&over), Arc::clone(counts));
                tasks.push(tokio::spawn(ask(over, counts, address, two == 1, client, think)));
            }
        }
        Clients { over, of, tasks }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.of.iter().map(|(_, counts)| counts.answered.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn lost(&self) -> u64 {
        self.of.iter().flat_map(|(_, counts)| counts.lost().values().copied().collect::<Vec<_>>()).sum()
    }

    pub(crate) async fn stop(self) -> Vec<(&'static str, Counted)> {
        self.over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            if let Err(error) = task.await {
                self.of[0].1.loses(format!("clients that panicked ({error})"));
            }
        }
        let counted = |counts: &Counts| Counted {
            answered: counts.answered.load(Ordering::Relaxed),
            lost: counts.lost().clone(),
        };
        self.of.iter().map(|(protocol, counts)| (*protocol, counted(counts))).collect()
    }
}

impl Counts {
    fn lost(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loses(&self, kind: String) {
        *self.lost().entry(kind).or_default() += 1;
    }
}

enum Connection {
    One(http1::SendRequest<Body>),
    /// Not hyper's: it does not tell what was never sent from what was not answered.
    Two(h2::client::SendRequest<Bytes>),
}

/// What came of one request.
enum Exchange {
    Answered {
        goes_on: bool,
    },
    /// The connection was told that it is the last before the request was sent on it.
    NotSent,
}

async fn ask(
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    address: SocketAddr,
    two: bool,
    client: usize,
    think: Duration,
) {
    let mut kept = None;
    while !over.load(Ordering::Relaxed) {
        let connection = match kept.take() {
            Some(connection) => Ok(connection),
            None => connect(address, two, client).await,
        };
        let mut connection = match connection {
            Ok(connection) => connection,
            Err(kind) => {
                counts.loses(kind);
                continue;
            }
        };
        match exchange(&mut connection).await {
            Ok(Exchange::NotSent) => continue,
            Ok(Exchange::Answered { goes_on }) => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                kept = goes_on.then_some(connection);
            }
            Err(kind) => counts.loses(kind),
        }
        if !think.is_zero() {
            tokio::time::sleep(think).await;
        }
    }
}

/// From an address of its own: one has ports for a few hundred connections a second.
async fn connect(address: SocketAddr, two: bool, client: usize) -> Result<Connection, String> {
    let third = if two { 2 } else { 1 };
    let from = std::net::Ipv4Addr::new(127, 0, third, u8::try_from(client % 250).unwrap_or(0) + 1);
    let connected = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(address).await
    };
    let stream = connected.await.map_err(|error| format!("not connected ({})", error.kind()))?;
    let _ = stream.set_nodelay(true);
    if two {
        let connected = h2::client::handshake(stream).await;
        let (client, connection) = connected.map_err(|error| format!("not connected ({error})"))?;
        tokio::spawn(connection);
        Ok(Connection::Two(client))
    } else {
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (client, connection) = connected.map_err(|error| format!("not connected ({error})"))?;
        tokio::spawn(connection);
        Ok(Connection::One(client))
    }
}

async fn exchange(connection: &mut Connection) -> Result<Exchange, String> {
    match connection {
        Connection::One(client) => exchange_on_one(client).await,
        Connection::Two(client) => exchange_on_two(client.clone()).await,
    }
}

async fn exchange_on_one(client: &mut http1::SendRequest<Body>) -> Result<Exchange, String> {
    // Closed in good order between two requests.
    if client.ready().await.is_err() {
        return Ok(Exchange::NotSent);
    }
    let request = Request::get("/").header(HOST, "service").body(Body::new());
    let answer = client.try_send_request(request.map_err(|error| error.to_string())?).await;
    let answer = match answer.map_err(|mut error| (error.take_message().is_some(), error.into_error())) {
        Ok(answer) => answer,
        Err((true, _)) => return Ok(Exchange::NotSent),
        Err((false, error)) => return Err(format!("not answered ({error})")),
    };
    let goes_on = answer.headers().get(CONNECTION).is_none_or(|value| value != "close");
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| format!("cut off ({error})"))?.to_bytes();
    whole(head.status, &body).map(|()| Exchange::Answered { goes_on })
}

async fn exchange_on_two(client: h2::client::SendRequest<Bytes>) -> Result<Exchange, String> {
    // Told that it was the last one.
    let Ok(mut client) = client.ready().await else { return Ok(Exchange::NotSent) };
    let request = Request::get("http://service/").body(()).map_err(|error| error.to_string())?;
    // An error here is one before anything was sent; one of the answer is not.
    let Ok((answer, _)) = client.send_request(request, true) else { return Ok(Exchange::NotSent) };
    let answer = answer.await.map_err(|error| format!("not answered ({error})"))?;
    let (head, mut body) = answer.into_parts();
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| format!("cut off ({error})"))?;
        all.extend_from_slice(&data);
        let _ = body.flow_control().release_capacity(data.len());
    }
    whole(head.status, &all).map(|()| Exchange::Answered { goes_on: true })
}

fn whole(status: StatusCode, body: &[u8]) -> Result<(), String> {
    match status {
        StatusCode::OK if body == b"hello" => Ok(()),
        status => Err(format!("status {status}, {} bytes", body.len())),
    }
}
