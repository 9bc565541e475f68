//! The clients: keep-alive connections, round robin over what the registry has said, no second try.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use epilogue_registry::{Client, Nacos};
use epilogue_testkit::RegistryServer;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

/// As often clients look who is there.
const POLL: Duration = Duration::from_secs(1);

pub(crate) struct Clients {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    list: Mutex<Vec<SocketAddr>>,
    answered: AtomicU64,
    lost: Mutex<BTreeMap<String, u64>>,
    over: AtomicBool,
}

/// What came of the requests.
pub(crate) struct Counted {
    pub(crate) answered: u64,
    pub(crate) kinds: BTreeMap<String, u64>,
}

impl Counted {
    pub(crate) fn lost(&self) -> u64 {
        self.kinds.values().sum()
    }
}

impl Clients {
    pub(crate) fn start(registry: &RegistryServer, count: usize) -> Clients {
        let shared = Arc::new(Shared::default());
        let mut tasks = vec![tokio::spawn(poll(Arc::clone(&shared), registry.nacos()))];
        tasks.extend((0..count).map(|first| tokio::spawn(ask(Arc::clone(&shared), first))));
        Clients { shared, tasks }
    }

    pub(crate) fn counted(&self) -> Counted {
        let kinds = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Counted { answered: self.shared.answered.load(Ordering::Relaxed), kinds }
    }

    pub(crate) async fn stop(self) -> Counted {
        self.shared.over.store(true, Ordering::Relaxed);
        let counted = Clients { shared: Arc::clone(&self.shared), tasks: Vec::new() };
        for task in self.tasks {
            if let Err(error) = task.await {
                self.shared.lost(format!("clients that panicked ({error})"));
            }
        }
        counted.counted()
    }
}

impl Shared {
    fn lost(&self, kind: String) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// An empty or missing list changes nothing: a registry that is away is no reason to stop.
async fn poll(shared: Arc<Shared>, registry: String) {
    let nacos = Arc::new(Nacos::at(registry));
    while !shared.is_over() {
        let ask = Arc::clone(&nacos);
        let list = tokio::task::spawn_blocking(move || ask.list("orders", POLL)).await;
        if let Ok(Ok(list)) = list
            && !list.is_empty()
        {
            *shared.list.lock().unwrap_or_else(PoisonError::into_inner) =
                list.iter().map(epilogue_registry::Instance::address).collect();
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One client: a connection to each instance, one request after the other.
async fn ask(shared: Arc<Shared>, first: usize) {
    let mut connections: HashMap<SocketAddr, SendRequest<Empty<Bytes>>> = HashMap::new();
    let mut turn = first;
    while !shared.is_over() {
        let next = {
            let list = shared.list.lock().unwrap_or_else(PoisonError::into_inner);
            connections.retain(|address, _| list.contains(address));
            (!list.is_empty()).then(|| list[turn % list.len()])
        };
        turn += 1;
        let Some(address) = next else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // One that the server has closed in good order, between two requests, is not used again.
        let kept = connections.remove(&address).filter(|connection| !connection.is_closed());
        let connection = match kept {
            Some(connection) => Ok(connection),
            None => connect(address, first).await,
        };
        match connection {
            Err(kind) => shared.lost(kind),
            Ok(mut connection) => match exchange(&mut connection).await {
                Ok(goes_on) => {
                    shared.answered.fetch_add(1, Ordering::Relaxed);
                    if goes_on {
                        connections.insert(address, connection);
                    }
                }
                Err(kind) => shared.lost(kind),
            },
        }
    }
}

/// From an address of its own: one has ports for a few hundred connections a second.
async fn connect(address: SocketAddr, client: usize) -> Result<SendRequest<Empty<Bytes>>, String> {
    let from = std::net::Ipv4Addr::new(127, 0, 1, u8::try_from(client % 250).unwrap_or(0) + 1);
    let connected = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        socket.connect(address).await
    };
    let stream = connected.await.map_err(|error| format!("not connected ({})", error.kind()))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (client, connection) = handshake.map_err(|error| format!("not connected ({error})"))?;
    tokio::spawn(connection);
    Ok(client)
}

/// Whether the connection can be used again.
async fn exchange(client: &mut SendRequest<Empty<Bytes>>) -> Result<bool, String> {
    let broken = |error: hyper::Error| format!("not answered ({error})");
    client.ready().await.map_err(broken)?;
    let request = Request::get("/orders/1").header(HOST, "orders").body(Empty::new());
    let request = request.map_err(|error| error.to_string())?;
    let answer = client.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    let goes_on = head.headers.get(CONNECTION).is_none_or(|value| value != "close");
    body.collect().await.map_err(broken)?;
    // An order that is not there is an answer as well.
    let answered = matches!(head.status, StatusCode::OK | StatusCode::NOT_FOUND);
    if answered { Ok(goes_on) } else { Err(format!("status {}", head.status)) }
}
