//! A service registry in the process, over real sockets: Nacos (versions 1 and 3) and Eureka on one list.

mod eureka;
mod faults;
mod nacos;
mod store;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use faults::Faults;
use store::Store;

/// A registry server on a free port of this host. Dropped, it is gone.
///
/// # Examples
///
/// ```
/// use epilogue_testkit::RegistryServer;
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let server = RegistryServer::start().await?;
/// // … point the program at server.nacos() or server.eureka()
/// server.advance(Duration::from_secs(31));             // nobody has sent a heartbeat
/// assert!(server.instances("orders").is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RegistryServer {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    /// What was asked, the method and the path, in order.
    asked: Mutex<Vec<String>>,
}

impl State {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Vec<String>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistryServer {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start() -> std::io::Result<RegistryServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let router = Router::new()
            .nest("/nacos", nacos::router())
            .nest("/eureka", eureka::router())
            .with_state(Arc::clone(&state))
            .layer(axum::middleware::from_fn_with_state(Arc::clone(&state), faults::meet));
        let serving = tokio::spawn(async move {
            // It ends with the task.
            let _ = axum::serve(listener, router).await;
        });
        Ok(RegistryServer { address, state, serving })
    }

    /// Its address as a Nacos server.
    pub fn nacos(&self) -> String {
        format!("http://{}/nacos", self.address)
    }

    /// Its address as a Eureka server.
    pub fn eureka(&self) -> String {
        format!("http://{}/eureka", self.address)
    }

    /// Moves its clock: who has not sent a heartbeat for as long as its protocol allows is unhealthy (Nacos,
    /// 15 s), or gone (30 s; Eureka 90 s).
    pub fn advance(&self, time: Duration) {
        self.state.store().advance(time);
    }

    /// The healthy instances of a service, whichever protocol they came by.
    pub fn instances(&self, service: &str) -> Vec<SocketAddr> {
        self.state.store().healthy(service).map(|instance| instance.address).collect()
    }

    /// Forgets everything, as a server does that starts anew.
    pub fn forget(&self) {
        self.state.store().forget();
    }

    /// What was asked so far: `PUT /eureka/apps/ORDERS/…`.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked().clone()
    }

    /// Nobody is dropped for missing heartbeats: how a Eureka server preserves itself when it misses many.
    pub fn preserves_itself(&self, preserves: bool) {
        self.state.store().preserves = preserves;
    }

    /// Has only version 1 of the API of Nacos.
    pub fn is_old(&self, old: bool) {
        self.state.faults().old = old;
    }

    /// Answers so many requests with this status.
    pub fn fails(&self, times: u32, status: u16) {
        self.state.faults().fails = (times, status);
    }

    /// Takes so long for each of so many requests.
    pub fn stalls(&self, times: u32, time: Duration) {
        self.state.faults().stalls = (times, time);
    }

    /// Breaks so many answers off in their middle.
    pub fn breaks_off(&self, times: u32) {
        self.state.faults().breaks_off = times;
    }

    /// Wants a token for whatever is asked of it as Nacos, and gives one for this user and password.
    pub fn wants_login(&self, user: &str, password: &str) {
        self.state.faults().login = Some((user.to_owned(), password.to_owned()));
    }

    /// No token that it has given is good any more.
    pub fn expires_tokens(&self) {
        self.state.faults().token += 1;
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
