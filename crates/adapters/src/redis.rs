//! A Redis client.

use std::time::Duration;

use epilogue_process::{Error, Part, Started, StopCx};
use fred::error::ErrorKind;
use fred::prelude::{Client, ClientLike, Config, ReconnectPolicy, Server, ServerConfig};
use fred::types::Builder;

/// A client of the server at this address as a part. Its start connects; its stop lets the commands that were sent be
/// answered, and says QUIT, within two seconds. When the connection is lost it is made anew, with growing pauses.
///
/// # Examples
///
/// ```no_run
/// # use epilogue_adapters::redis_client;
/// # use epilogue_process::{App, Error};
/// use fred::prelude::KeysInterface;
///
/// # async fn body(app: &App) -> Result<(), Error> {
/// let cache = app.start(redis_client("cache", "127.0.0.1", 6379)).await?;
/// let _: () = cache.set("greeting", "hello", None, None, false).await?;
/// # Ok(()) }
/// ```
pub fn redis_client(name: impl Into<String>, host: impl Into<String>, port: u16) -> RedisClient {
    let server = ServerConfig::Centralized { server: Server::new(host.into(), port) };
    RedisClient { name: name.into(), config: Config { server, ..Config::default() } }
}

/// A client that has not started; see [`redis_client`].
#[must_use = "nothing connects until it is started: app.start(redis_client(…)).await?"]
pub struct RedisClient {
    name: String,
    config: Config,
}

impl RedisClient {
    /// As this user, with this password.
    pub fn login(mut self, user: Option<String>, password: impl Into<String>) -> RedisClient {
        (self.config.username, self.config.password) = (user, Some(password.into()));
        self
    }

    /// Settings of fred's own: a cluster, sentinels.
    pub fn config(mut self, config: Config) -> RedisClient {
        self.config = config;
        self
    }
}

/// How long the server may take to answer what was sent, and QUIT.
const QUIT: Duration = Duration::from_secs(2);

impl Part for RedisClient {
    type Handle = Client;

    fn name(&self) -> String {
        self.name.clone()
    }

    async fn start(self) -> Result<Started<Client>, Error> {
        let pauses = ReconnectPolicy::new_exponential(0, 100, 5_000, 2);
        let client = Builder::from_config(self.config)
            .with_connection_config(|config| {
                config.connection_timeout = Duration::from_secs(5);
                // A start that fails says so, and the program with it; afterwards it is made anew.
                config.max_command_attempts = 3;
            })
            .set_policy(pauses)
            .build()?;
        let connection = client.init().await?;
        let closes = client.clone();
        let quit = async move |cx: StopCx| {
            // A server that is away, or does not answer, would be waited for as long as there is time.
            match tokio::time::timeout(QUIT, closes.quit()).await {
                Ok(Ok(())) => drop(tokio::time::timeout(QUIT, connection).await),
                Ok(Err(error)) if error.kind() == &ErrorKind::Canceled => cx.note("was not connected"),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => cx.note(format!("the server did not answer within {QUIT:?}")),
            }
            Ok(())
        };
        Ok(Started::new(client, quit))
    }
}
