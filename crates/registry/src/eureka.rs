//! Eureka over REST.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::client::{Beat, Client};
use crate::error::RegistryError;
use crate::http::{Answer, Request, encoded};
use crate::instance::Instance;

/// A Eureka server. Without heartbeats for 90 s an instance is gone, but for a server that preserves itself.
#[derive(Debug)]
pub struct Eureka {
    base: String,
    learned_within: Duration,
    /// When this client was made: the version of what it says of its instances.
    dirty: u64,
}

impl Eureka {
    /// The server at this address: `http://eureka:8761/eureka` of Spring Cloud, `…/eureka/v2` of Netflix.
    pub fn at(base: impl Into<String>) -> Eureka {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let dirty = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let base = base.into().trim_end_matches('/').to_owned();
        // Its own cache is 30 s old at most; gateways poll.
        Eureka { base, learned_within: Duration::from_secs(35), dirty }
    }

    /// How long after a change the clients of this registry know it at the latest; 35 s unless set: the server
    /// caches for up to 30, and clients poll. More than a third of the stop's budget is not waited for.
    pub fn learned_within(mut self, within: Duration) -> Eureka {
        self.learned_within = within;
        self
    }

    fn ask(
        &self,
        method: &'static str,
        path: &str,
        query: &[(&str, &str)],
        json: Option<Value>,
        limit: Duration,
    ) -> Result<Answer, RegistryError> {
        let url = format!("{}{path}", self.base);
        let body = json.map(|json| ("application/json", json.to_string()));
        Request { method, url, query, body, limit }.send()
    }
}

/// The server compares it so.
fn app(service: &str) -> String {
    service.to_uppercase()
}

fn id(instance: &Instance) -> String {
    format!("{}:{}:{}", instance.ip, instance.service, instance.port)
}

fn path(instance: &Instance) -> String {
    format!("/apps/{}/{}", encoded(&app(&instance.service)), encoded(&id(instance)))
}

impl Client for Eureka {
    fn describe(&self) -> String {
        format!("Eureka {}", self.base)
    }

    fn register(&self, instance: &Instance, limit: Duration) -> Result<(), RegistryError> {
        let mut metadata = instance.metadata.clone();
        metadata.entry("weight".into()).or_insert_with(|| instance.weight.to_string());
        let body = json!({ "instance": {
            "instanceId": id(instance),
            "hostName": instance.ip.to_string(),
            "app": app(&instance.service),
            "ipAddr": instance.ip.to_string(),
            "vipAddress": instance.service,
            "status": "UP",
            "port": { "$": instance.port, "@enabled": "true" },
            "securePort": { "$": 443, "@enabled": "false" },
            "countryId": 1,
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                "name": "MyOwn",
            },
            "leaseInfo": { "renewalIntervalInSecs": 30, "durationInSecs": 90 },
            "metadata": metadata,
            "lastDirtyTimestamp": self.dirty.to_string(),
        }});
        let path = format!("/apps/{}", encoded(&app(&instance.service)));
        let answer = self.ask("POST", &path, &[], Some(body), limit)?;
        if answer.is_success() { Ok(()) } else { Err(answer.refused()) }
    }

    fn beat(&self, instance: &Instance, limit: Duration) -> Result<Beat, RegistryError> {
        let dirty = self.dirty.to_string();
        let query = [("status", "UP"), ("lastDirtyTimestamp", dirty.as_str())];
        let answer = self.ask("PUT", &path(instance), &query, None, limit)?;
        match answer.status {
            404 => Ok(Beat::Unknown),
            200..=299 => Ok(Beat::Known { next: None }),
            _ => Err(answer.refused()),
        }
    }

    fn deregister(&self, instance: &Instance, limit: Duration) -> Result<(), RegistryError> {
        let answer = self.ask("DELETE", &path(instance), &[], None, limit)?;
        if answer.is_success() || answer.status == 404 { Ok(()) } else { Err(answer.refused()) }
    }

    fn list(&self, service: &str, limit: Duration) -> Result<Vec<Instance>, RegistryError> {
        let answer = self.ask("GET", &format!("/apps/{}", encoded(&app(service))), &[], None, limit)?;
        // An application without instances is not there.
        if answer.status == 404 {
            return Ok(Vec::new());
        }
        if !answer.is_success() {
            return Err(answer.refused());
        }
        let said = answer.json()?;
        let instances = one_or_many(&said["application"]["instance"]);
        let up = |instance: &&Value| instance["status"] == "UP";
        Ok(instances.iter().filter(up).filter_map(|instance| read(service, instance)).collect())
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(30)
    }

    fn learned_within(&self) -> Duration {
        self.learned_within
    }
}

/// What was made of XML: of one thing there is no list.
fn one_or_many(value: &Value) -> &[Value] {
    match value {
        Value::Array(many) => many,
        Value::Null => &[],
        one => std::slice::from_ref(one),
    }
}

fn read(service: &str, host: &Value) -> Option<Instance> {
    let port = &host["port"]["$"];
    let port = port.as_u64().or_else(|| port.as_str()?.parse().ok())?;
    let mut instance = Instance::new(service, host["ipAddr"].as_str()?, u16::try_from(port).ok()?).ok()?;
    for (key, value) in host["metadata"].as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match key.as_str() {
            // How an empty one is written.
            "@class" => {}
            "weight" => instance = instance.weight(text.parse().unwrap_or(1.0)),
            _ => instance = instance.metadata(key, text),
        }
    }
    Some(instance)
}
