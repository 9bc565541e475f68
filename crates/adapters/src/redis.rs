//! A Redis client.

use std::time::Duration;

use epilogue_process::{Error, Part, Started, StopCx};
use fred::error::ErrorKind;
use fred::prelude::{Client, ClientLike, Config, ReconnectPolicy, Server, ServerConfig};
use fred::types::Builder;

/// A client (fred's) of the server at this address as a part. Its start connects; its stop lets the commands that were
/// sent be answered, and says QUIT, within two seconds all in all.
///
/// When the connection is lost it is made anew, with growing pauses. A command that is sent meanwhile waits for that, but
/// no longer than its [time-out](RedisClient::command_timeout): 5 s unless set, an error then. (fred's own default is to
/// wait for ever, which makes a server that is away hold every request, and every stop till its deadline.)
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
    let mut builder = Builder::from_config(Config { server, ..Config::default() });
    builder
        .with_connection_config(|config| {
            config.connection_timeout = Duration::from_secs(5);
            // A start that fails says so, and the program with it; afterwards it is made anew.
            config.max_command_attempts = 3;
        })
        .with_performance_config(|config| config.default_command_timeout = COMMAND)
        .set_policy(ReconnectPolicy::new_exponential(0, 100, 5_000, 2));
    RedisClient { name: name.into(), builder }
}

/// A client that has not started; see [`redis_client`].
#[must_use = "nothing connects until it is started: app.start(redis_client(…)).await?"]
pub struct RedisClient {
    name: String,
    builder: Builder,
}

impl RedisClient {
    /// As this user, with this password.
    pub fn login(mut self, user: Option<String>, password: impl Into<String>) -> RedisClient {
        let password = password.into();
        self.builder.with_config(|config| (config.username, config.password) = (user, Some(password)));
        self
    }

    /// How long a command may wait for its answer, a lost connection included: 5 s unless set, zero for ever. Commands
    /// that wait by themselves, such as BLPOP, need more.
    pub fn command_timeout(mut self, limit: Duration) -> RedisClient {
        self.builder.with_performance_config(|config| config.default_command_timeout = limit);
        self
    }

    /// Where the servers are, of fred's own kinds: a cluster, sentinels. A [login](RedisClient::login) stays, unless this
    /// has one.
    pub fn config(mut self, mut config: Config) -> RedisClient {
        self.builder.with_config(|before| {
            config.username = config.username.take().or_else(|| before.username.take());
            config.password = config.password.take().or_else(|| before.password.take());
        });
        self.builder.set_config(config);
        self
    }

    /// All other settings of fred's own: of the connection, how it is made anew.
    pub fn settings(mut self, set: impl FnOnce(&mut Builder)) -> RedisClient {
        set(&mut self.builder);
        self
    }
}

/// How long a command may wait for its answer.
const COMMAND: Duration = Duration::from_secs(5);
/// How long the server may take to answer what was sent, and QUIT.
const QUIT: Duration = Duration::from_secs(2);

impl Part for RedisClient {
    type Handle = Client;

    fn name(&self) -> String {
        self.name.clone()
    }

    async fn start(self) -> Result<Started<Client>, Error> {
        let client = self.builder.build()?;
        let servers = client.client_config().server.hosts();
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let connection =
            client.init().await.map_err(|error| Error::from(error).context(servers.join(", ")))?;
        let closes = client.clone();
        let quit = async move |cx: StopCx| {
            // A server that is away, or does not answer, would be waited for as long as there is time.
            let until = tokio::time::Instant::now() + QUIT;
            match tokio::time::timeout_at(until, closes.quit()).await {
                Ok(Ok(())) => drop(tokio::time::timeout_at(until, connection).await),
                Ok(Err(error)) if error.kind() == &ErrorKind::Canceled => cx.note("was not connected"),
                Ok(Err(error)) if error.kind() != &ErrorKind::Timeout => return Err(error.into()),
                _ => cx.note(format!("the server did not answer within {QUIT:?}")),
            }
            Ok(())
        };
        Ok(Started::new(client, quit))
    }
}
