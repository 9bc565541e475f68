//! One request to a registry, with a limit.

use std::time::Duration;

use crate::error::RegistryError;

/// What came back.
pub(crate) struct Answer {
    what: String,
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// More than any list of instances has.
const LONGEST: u64 = 16 << 20;

/// A request; its parameters are in the address.
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) url: String,
    pub(crate) query: &'a [(&'a str, &'a str)],
    /// What it is, and the body itself.
    pub(crate) body: Option<(&'static str, String)>,
    pub(crate) limit: Duration,
}

impl Request<'_> {
    pub(crate) fn send(self) -> Result<Answer, RegistryError> {
        let what = format!("{} {}", self.method, self.url);
        let host = self.url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme));
        if host.is_none_or(|(_, rest)| rest.is_empty() || rest.starts_with('/')) {
            let source = "it is no address with http:// and a host".into();
            return Err(RegistryError::Unreachable { what, source });
        }
        self.ask()
            .map_err(|source| RegistryError::Unreachable { what: what.clone(), source: Box::new(source) })
            .map(|(status, text)| Answer { what, status, text })
    }

    fn ask(self) -> Result<(u16, String), ureq::Error> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(self.limit.max(Duration::from_millis(50))))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let uri = with_query(&self.url, self.query);
        let request =
            ureq::http::Request::builder().method(self.method).uri(uri).header("accept", "application/json");
        let mut answer = match self.body {
            Some((kind, body)) => agent.run(request.header("content-type", kind).body(body)?)?,
            None => agent.run(request.body(())?)?,
        };
        let text = answer.body_mut().with_config().limit(LONGEST).read_to_string()?;
        Ok((answer.status().as_u16(), text))
    }
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// That it was refused.
    pub(crate) fn refused(&self) -> RegistryError {
        let text: String = self.text.chars().take(200).collect();
        RegistryError::Refused { what: self.what.clone(), status: self.status, text: text.trim().to_owned() }
    }

    /// That it cannot be read.
    pub(crate) fn malformed(&self, why: impl std::fmt::Display) -> RegistryError {
        RegistryError::Malformed { what: self.what.clone(), why: why.to_string() }
    }

    pub(crate) fn json(&self) -> Result<serde_json::Value, RegistryError> {
        serde_json::from_str(&self.text).map_err(|error| self.malformed(error))
    }
}

fn with_query(url: &str, query: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    if pairs.is_empty() { url.to_owned() } else { format!("{url}?{}", pairs.join("&")) }
}

/// A text as it may stand in a path or a query.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_value_holds_it_is_one_value() {
        let query = [("metadata", r#"{"a":"b&c=d"}"#), ("name", "größe")];
        assert_eq!(
            with_query("http://r/x", &query),
            "http://r/x?metadata=%7B%22a%22%3A%22b%26c%3Dd%22%7D&name=gr%C3%B6%C3%9Fe"
        );
        assert_eq!(with_query("http://r/x", &[]), "http://r/x");
    }
}
