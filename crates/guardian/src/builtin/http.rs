//! One HTTP request; and leaving a service registry, which is one too.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::secret::SecretRef;

/// Sends one HTTP request. It carries the record's key as `Idempotency-Key`.
///
/// A status of 2xx is success, and so are 404 and 410 of a DELETE: it is gone. 4xx but for 408, 425 and 429
/// is parked: it would be the same again. Everything else is tried again.
///
/// `https` needs the feature of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRequest {
    method: String,
    url: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, HeaderValue)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Plain(String),
    Secret { prefix: String, secret: SecretRef },
}

impl HttpRequest {
    /// A request. The URL is stored as it is.
    ///
    /// # Errors
    ///
    /// When the URL holds credentials, or is none for `http` or `https`.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Result<HttpRequest, String> {
        let (method, url) = (method.into(), url.into());
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("{url}: it is no address with http:// or https://"));
        };
        if !["http", "https"].contains(&scheme) {
            return Err(format!("{scheme}: only http and https are known"));
        }
        if rest.split(['/', '?', '#']).next().unwrap_or_default().contains('@') {
            return Err(
                "the address holds credentials, and would be stored on disk: use a header with a secret"
                    .into(),
            );
        }
        Ok(HttpRequest { method, url, headers: Vec::new(), body: None })
    }

    /// With a header, which is stored as it is.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> HttpRequest {
        self.headers.push((name.into(), HeaderValue::Plain(value.into())));
        self
    }

    /// With a header whose value is looked up when it is sent: `Authorization: Bearer` and a token.
    pub fn secret_header(
        mut self,
        name: impl Into<String>,
        prefix: impl Into<String>,
        secret: SecretRef,
    ) -> HttpRequest {
        self.headers.push((name.into(), HeaderValue::Secret { prefix: prefix.into(), secret }));
        self
    }

    /// With a body, which is stored as it is.
    pub fn body(mut self, body: impl Into<String>) -> HttpRequest {
        self.body = Some(body.into());
        self
    }
}

impl Action for HttpRequest {
    const NAME: &'static str = "epilogue.http";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let mut request = ureq::http::Request::builder().method(self.method.as_str()).uri(&self.url);
        request = request.header("Idempotency-Key", cx.key());
        for (name, value) in &self.headers {
            request = match value {
                HeaderValue::Plain(value) => request.header(name, value),
                HeaderValue::Secret { prefix, secret } => {
                    request.header(name, format!("{prefix}{}", secret.resolve()?.expose()))
                }
            };
        }
        let unsendable = |error: ureq::http::Error| ActionError::park(format!("it cannot be sent: {error}"));
        let agent = agent(cx.remaining());
        let answer = match &self.body {
            Some(body) => agent.run(request.body(body.as_str()).map_err(unsendable)?),
            None => agent.run(request.body(()).map_err(unsendable)?),
        };
        let status = answer?.status().as_u16();
        judge(status, self.method.eq_ignore_ascii_case("DELETE"))
    }

    fn describe(&self) -> String {
        format!("{} {}", self.method, self.url)
    }
}

fn judge(status: u16, delete: bool) -> Result<(), ActionError> {
    match status {
        200..=299 => Ok(()),
        404 | 410 if delete => Ok(()),
        408 | 425 | 429 => Err(ActionError::retry(format!("status {status}"))),
        400..=499 => Err(ActionError::park(format!("status {status}"))),
        _ => Err(ActionError::retry(format!("status {status}"))),
    }
}

fn agent(limit: Duration) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(limit.max(Duration::from_millis(100))))
        .http_status_as_error(false)
        // Where a request leads is part of what was registered.
        .max_redirects(0);
    #[cfg(feature = "https")]
    let config = config.tls_config(
        ureq::tls::TlsConfig::builder()
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .build(),
    );
    config.build().new_agent()
}

/// Takes an instance out of a service registry, so that nobody is sent to a dead one. An instance that
/// the registry does not know is success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deregister {
    server: String,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Registry {
    Nacos { service: String, ip: String, port: u16, group: String, namespace: String },
    Eureka { app: String, instance: String },
}

impl Deregister {
    /// From Nacos: `server` as in `http://nacos:8848/nacos`. The API of version 3 is tried first, then that
    /// of version 1.
    pub fn nacos(
        server: impl Into<String>,
        service: impl Into<String>,
        ip: impl Into<String>,
        port: u16,
    ) -> Deregister {
        let (group, namespace) = ("DEFAULT_GROUP".into(), "public".into());
        let registry = Registry::Nacos { service: service.into(), ip: ip.into(), port, group, namespace };
        Deregister { server: server.into(), registry }
    }

    /// In this group and namespace of Nacos, not the default ones.
    pub fn in_group(mut self, name: impl Into<String>, space: impl Into<String>) -> Deregister {
        if let Registry::Nacos { group, namespace, .. } = &mut self.registry {
            (*group, *namespace) = (name.into(), space.into());
        }
        self
    }

    /// From Eureka: `server` as in `http://eureka:8761/eureka`.
    pub fn eureka(
        server: impl Into<String>,
        app: impl Into<String>,
        instance: impl Into<String>,
    ) -> Deregister {
        // The server compares it so.
        let registry = Registry::Eureka { app: app.into().to_uppercase(), instance: instance.into() };
        Deregister { server: server.into(), registry }
    }

    fn delete(&self, path: &str, query: &[(&str, &str)], cx: &ActionCx) -> Result<u16, ActionError> {
        let url = format!("{}{path}", self.server.trim_end_matches('/'));
        let request = agent(cx.remaining()).delete(&url).query_pairs(query.iter().copied());
        Ok(request.header("Idempotency-Key", cx.key()).call()?.status().as_u16())
    }
}

impl Action for Deregister {
    const NAME: &'static str = "epilogue.deregister";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        match &self.registry {
            Registry::Eureka { app, instance } => {
                judge(self.delete(&format!("/apps/{app}/{instance}"), &[], cx)?, true)
            }
            Registry::Nacos { service, ip, port, group, namespace } => {
                let port = port.to_string();
                let query = [
                    ("serviceName", service.as_str()),
                    ("ip", ip),
                    ("port", &port),
                    ("groupName", group),
                    ("namespaceId", namespace),
                    ("ephemeral", "true"),
                ];
                match self.delete("/v3/client/ns/instance", &query, cx)? {
                    // A server that has no version 3, or does not let it be used.
                    400..=499 | 501 => judge(self.delete("/v1/ns/instance", &query, cx)?, true),
                    status => judge(status, true),
                }
            }
        }
    }

    fn describe(&self) -> String {
        match &self.registry {
            Registry::Nacos { service, ip, port, .. } => {
                format!("deregister {service} {ip}:{port} from {}", self.server)
            }
            Registry::Eureka { app, instance } => {
                format!("deregister {app}/{instance} from {}", self.server)
            }
        }
    }
}
