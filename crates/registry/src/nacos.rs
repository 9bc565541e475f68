//! Nacos over HTTP: the API of version 3, and that of version 1 where a server has no other.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::{Beat, Client};
use crate::error::RegistryError;
use crate::http::{Answer, Request, encoded};
use crate::instance::Instance;

/// A Nacos server. Instances are ephemeral: without heartbeats they are unhealthy after 15 s, and gone after 30.
#[derive(Debug)]
pub struct Nacos {
    base: String,
    namespace: String,
    group: String,
    cluster: String,
    login: Option<Login>,
    learned_within: Duration,
    /// Which API it has: 0 not known yet, 1, 3.
    version: AtomicU8,
}

#[derive(Debug)]
struct Login {
    user: String,
    password: String,
    token: Mutex<Option<Token>>,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    until: Instant,
}

/// What a server says to a heartbeat of an instance that it does not know, in its versions.
const UNKNOWN: [i64; 2] = [20404, 21003];

impl Nacos {
    /// The server at this address, as in `http://nacos:8848/nacos`: group `DEFAULT_GROUP`, namespace `public`,
    /// cluster `DEFAULT`.
    pub fn at(base: impl Into<String>) -> Nacos {
        Nacos {
            base: base.into().trim_end_matches('/').to_owned(),
            namespace: "public".into(),
            group: "DEFAULT_GROUP".into(),
            cluster: "DEFAULT".into(),
            login: None,
            learned_within: Duration::from_secs(5),
            version: AtomicU8::new(0),
        }
    }

    /// In this namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Nacos {
        self.namespace = namespace.into();
        self
    }

    /// In this group.
    pub fn group(mut self, group: impl Into<String>) -> Nacos {
        self.group = group.into();
        self
    }

    /// In this cluster.
    pub fn cluster(mut self, cluster: impl Into<String>) -> Nacos {
        self.cluster = cluster.into();
        self
    }

    /// As this user. The password is kept in memory, and sent to the server alone.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Nacos {
        self.login = Some(Login { user: user.into(), password: password.into(), token: Mutex::default() });
        self
    }

    /// How often the clients of this registry poll it; 5 s unless set.
    pub fn polled_every(mut self, poll: Duration) -> Nacos {
        self.learned_within = poll;
        self
    }

    fn instance(
        &self,
        method: &'static str,
        path: Path,
        of: &Of<'_>,
        limit: Duration,
    ) -> Result<Answer, RegistryError> {
        let until = Instant::now() + limit;
        if self.version.load(Ordering::Relaxed) != 1 {
            let answer = self.ask(method, &format!("/v3/client/ns/{}", path.v3), of, path.v3_beat, until)?;
            if !has_no_such_api(&answer) {
                self.version.store(3, Ordering::Relaxed);
                return Ok(answer);
            }
        }
        let answer =
            self.ask(path.v1_method.unwrap_or(method), &format!("/v1/ns/{}", path.v1), of, false, until)?;
        // A server may be replaced by a newer one while this program runs.
        self.version.store(u8::from(!has_no_such_api(&answer)), Ordering::Relaxed);
        Ok(answer)
    }

    fn ask(
        &self,
        method: &'static str,
        path: &str,
        of: &Of<'_>,
        beat: bool,
        until: Instant,
    ) -> Result<Answer, RegistryError> {
        let mut query = of.query(self);
        if beat {
            query.push(("heartBeat", "true".into()));
        }
        let left = || until.saturating_duration_since(Instant::now());
        for again in [false, true] {
            let token = self.token(again, left())?;
            let mut pairs: Vec<(&str, &str)> =
                query.iter().map(|(key, value)| (*key, value.as_str())).collect();
            pairs.extend(token.as_deref().map(|token| ("accessToken", token)));
            let url = format!("{}{path}", self.base);
            let answer = Request { method, url, query: &pairs, body: None, limit: left() }.send()?;
            // A token may end before its time.
            if answer.status != 403 || again || self.login.is_none() {
                return Ok(answer);
            }
        }
        unreachable!("the second answer is returned, whatever it is")
    }

    fn token(&self, fresh: bool, limit: Duration) -> Result<Option<String>, RegistryError> {
        let Some(login) = &self.login else { return Ok(None) };
        let lock = || login.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = lock().as_ref().filter(|token| !fresh && token.until > Instant::now()) {
            return Ok(Some(token.text.clone()));
        }
        // Without the lock: whoever else wants one has a limit of its own.
        let new = self.log_in(login, limit)?;
        *lock() = Some(new.clone());
        Ok(Some(new.text))
    }

    fn log_in(&self, login: &Login, limit: Duration) -> Result<Token, RegistryError> {
        // Not in the address, which servers and proxies log.
        let form = format!("username={}&password={}", encoded(&login.user), encoded(&login.password));
        let until = Instant::now() + limit;
        let ask = |path: &str| {
            let url = format!("{}{path}", self.base);
            let body = Some(("application/x-www-form-urlencoded", form.clone()));
            let limit = until.saturating_duration_since(Instant::now());
            Request { method: "POST", url, query: &[], body, limit }.send()
        };
        let mut answer = ask("/v3/auth/user/login")?;
        if has_no_such_api(&answer) {
            answer = ask("/v1/auth/login")?;
        }
        if !answer.is_success() {
            return Err(answer.refused());
        }
        let said = answer.json()?;
        let said = said.get("data").unwrap_or(&said);
        let text = said["accessToken"].as_str().ok_or_else(|| answer.malformed("it has no accessToken"))?;
        // Some say that it never ends.
        let seconds = said["tokenTtl"].as_u64().unwrap_or(60).min(24 * 3600);
        // Renewed before its time.
        Ok(Token { text: text.into(), until: Instant::now() + Duration::from_secs(seconds) * 9 / 10 })
    }
}

/// Where something is asked for, in each version.
#[derive(Clone, Copy)]
struct Path {
    v3: &'static str,
    v3_beat: bool,
    v1: &'static str,
    v1_method: Option<&'static str>,
}

const INSTANCE: Path = Path { v3: "instance", v3_beat: false, v1: "instance", v1_method: None };
const BEAT: Path = Path { v3: "instance", v3_beat: true, v1: "instance/beat", v1_method: Some("PUT") };
const LIST: Path = Path { v3: "instance/list", v3_beat: false, v1: "instance/list", v1_method: None };

/// What is asked about.
enum Of<'a> {
    Instance(&'a Instance),
    Service(&'a str),
}

impl Of<'_> {
    fn query(&self, server: &Nacos) -> Vec<(&'static str, String)> {
        let common = |service: &str| {
            vec![
                ("serviceName", service.to_owned()),
                ("groupName", server.group.clone()),
                ("namespaceId", server.namespace.clone()),
                ("clusterName", server.cluster.clone()),
            ]
        };
        match self {
            Of::Service(service) => common(service),
            Of::Instance(instance) => {
                let mut query = common(&instance.service);
                query.extend([
                    ("ip", instance.ip.to_string()),
                    ("port", instance.port.to_string()),
                    ("weight", instance.weight.to_string()),
                    ("enabled", "true".into()),
                    ("healthy", "true".into()),
                    ("ephemeral", "true".into()),
                    // Some servers ask for it.
                    ("metadata", serde_json::json!(instance.metadata).to_string()),
                ]);
                query
            }
        }
    }
}

/// A server of another version, or one that does not let this one be used. What it knows and refuses it says in
/// an envelope.
fn has_no_such_api(answer: &Answer) -> bool {
    let enveloped = || answer.json().is_ok_and(|json| json.get("code").is_some_and(Value::is_i64));
    matches!(answer.status, 404 | 405 | 410 | 501) && !enveloped()
}

/// The envelope's code: 0 is success; `None` where there is none.
fn code(answer: &Answer) -> Option<i64> {
    answer.json().ok()?.get("code")?.as_i64()
}

fn done(answer: &Answer) -> Result<(), RegistryError> {
    // Version 1 says "ok", without an envelope.
    let good = answer.is_success() && matches!(code(answer), None | Some(0 | 200));
    if good { Ok(()) } else { Err(answer.refused()) }
}

impl Client for Nacos {
    fn describe(&self) -> String {
        format!("Nacos {}", self.base)
    }

    fn register(&self, instance: &Instance, limit: Duration) -> Result<(), RegistryError> {
        done(&self.instance("POST", INSTANCE, &Of::Instance(instance), limit)?)
    }

    fn beat(&self, instance: &Instance, limit: Duration) -> Result<Beat, RegistryError> {
        let answer = self.instance("POST", BEAT, &Of::Instance(instance), limit)?;
        match code(&answer) {
            Some(code) if UNKNOWN.contains(&code) => Ok(Beat::Unknown),
            // 10200 is what version 1 says when all is well.
            Some(0 | 200 | 10200) | None if answer.is_success() => {
                let said = answer.json().ok();
                let next = said.as_ref().and_then(|said| said["clientBeatInterval"].as_u64());
                Ok(Beat::Known { next: next.map(Duration::from_millis) })
            }
            _ => Err(answer.refused()),
        }
    }

    fn deregister(&self, instance: &Instance, limit: Duration) -> Result<(), RegistryError> {
        done(&self.instance("DELETE", INSTANCE, &Of::Instance(instance), limit)?)
    }

    fn list(&self, service: &str, limit: Duration) -> Result<Vec<Instance>, RegistryError> {
        let answer = self.instance("GET", LIST, &Of::Service(service), limit)?;
        done(&answer)?;
        let said = answer.json()?;
        let data = said.get("data").unwrap_or(&said);
        let hosts = data.as_array().or_else(|| data["hosts"].as_array());
        let hosts = hosts.ok_or_else(|| answer.malformed("it holds no list"))?;
        let usable = |host: &&Value| {
            let says = |key: &str| host[key].as_bool().unwrap_or(true);
            says("healthy") && says("enabled")
        };
        Ok(hosts.iter().filter(usable).filter_map(|host| read(service, host)).collect())
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn learned_within(&self) -> Duration {
        self.learned_within
    }
}

/// One that cannot be read is passed over: the others can be used.
fn read(service: &str, host: &Value) -> Option<Instance> {
    let port = u16::try_from(host["port"].as_u64()?).ok()?;
    let mut instance = Instance::new(service, host["ip"].as_str()?, port).ok()?;
    instance = instance.weight(host["weight"].as_f64().unwrap_or(1.0));
    for (key, value) in host["metadata"].as_object().into_iter().flatten() {
        instance = instance.metadata(key, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Some(instance)
}
