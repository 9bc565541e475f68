//! Releasing a lock in Redis, if it is still ours.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::secret::SecretRef;

/// Deletes a key of Redis if it holds this token: the lock is ours. Another's, or none, is left alone.
///
/// The token is no secret: it only tells holders apart. No TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisUnlock {
    /// `HOST:PORT`.
    pub server: String,
    /// The key of the lock.
    pub key: String,
    /// What it holds if it is ours.
    pub token: String,
    /// The user, where the server has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The password, if it needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// The number of the database.
    #[serde(default)]
    pub database: u32,
}

/// Compared and deleted in one step: between two another could have taken it.
const SCRIPT: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

impl Action for RedisUnlock {
    const NAME: &'static str = "epilogue.redis_unlock";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let mut connection = Connection::open(&self.server, cx.remaining())?;
        if let Some(password) = &self.password {
            let password = password.resolve()?;
            match &self.user {
                Some(user) => connection.call(&["AUTH", user, password.expose()])?,
                None => connection.call(&["AUTH", password.expose()])?,
            };
        }
        if self.database != 0 {
            connection.call(&["SELECT", &self.database.to_string()])?;
        }
        connection.call(&["EVAL", SCRIPT, "1", &self.key, &self.token])
    }

    fn describe(&self) -> String {
        format!("release the lock {} in redis {}", self.key, self.server)
    }
}

/// As much of Redis's protocol as three commands need: a request is an array of strings, an answer one
/// line.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: &str, limit: Duration) -> Result<Connection, ActionError> {
        let limit = limit.max(Duration::from_millis(100));
        let mut last = ActionError::retry(format!("{server} is not known"));
        for address in server.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(limit))?;
                    stream.set_write_timeout(Some(limit))?;
                    return Ok(Connection(BufReader::new(stream)));
                }
                Err(error) => last = ActionError::retry(format!("{address}: {error}")),
            }
        }
        Err(last)
    }

    fn call(&mut self, words: &[&str]) -> Result<(), ActionError> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut answer = String::new();
        self.0.read_line(&mut answer)?;
        match answer.as_bytes().first() {
            Some(b'+' | b':') => Ok(()),
            Some(b'-') => {
                let words = answer[1..].trim_end();
                // Wrong credentials stay wrong; a server that loads, or is a replica now, does not.
                let forever =
                    ["WRONGPASS", "NOAUTH", "NOPERM", "WRONGTYPE"].iter().any(|e| words.starts_with(e));
                Err(if forever { ActionError::park(words) } else { ActionError::retry(words) })
            }
            _ => Err(ActionError::retry("the connection was closed")),
        }
    }
}
