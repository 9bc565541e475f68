//! One instance of a service: where it is, and what is said of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::InvalidInstance;

/// One instance of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    pub(crate) service: String,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) weight: f64,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Instance {
    /// An instance of `service` that is reached at this address: one by which *others* reach it.
    ///
    /// # Errors
    ///
    /// [`InvalidInstance`] names the field: an empty name, or one with a character that a registry takes for a
    /// separator; what is no IP address, or means every address; port 0.
    pub fn new(
        service: impl Into<String>,
        ip: impl AsRef<str>,
        port: u16,
    ) -> Result<Instance, InvalidInstance> {
        let service = service.into();
        let invalid = |field, value: &str, why| InvalidInstance { field, value: value.into(), why };
        if service.is_empty() || service.contains(['@', '/', '#', '?', '&', ' ']) {
            return Err(invalid("service", &service, "a name without @ / # ? & and spaces is needed"));
        }
        let text = ip.as_ref();
        let ip: IpAddr = text.parse().map_err(|_| invalid("ip", text, "it is no IP address"))?;
        if ip.is_unspecified() {
            return Err(invalid(
                "ip",
                text,
                "nobody can reach it there: it means every address of this host",
            ));
        }
        if port == 0 {
            return Err(invalid("port", "0", "it means any port: ask the listener which one it got"));
        }
        Ok(Instance { service, ip, port, weight: 1.0, metadata: BTreeMap::new() })
    }

    /// How much it is to get, compared with others; 1 unless set. What is no number, or negative, counts as 0.
    pub fn weight(mut self, weight: f64) -> Instance {
        self.weight = if weight.is_finite() { weight.max(0.0) } else { 0.0 };
        self
    }

    /// Something said of it: its zone, its release.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Instance {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Where it is reached.
    pub fn address(&self) -> std::net::SocketAddr {
        (self.ip, self.port).into()
    }

    /// Its weight.
    pub fn get_weight(&self) -> f64 {
        self.weight
    }

    /// All that is said of it.
    pub fn get_metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Whether both are the same one, whatever is said of it.
    pub(crate) fn is(&self, other: &Instance) -> bool {
        (&self.service, self.ip, self.port) == (&other.service, other.ip, other.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_registry_could_hold_is_named() {
        let refused = |service: &str, ip: &str, port| Instance::new(service, ip, port).unwrap_err();
        assert_eq!(refused("", "10.0.0.1", 1).field, "service");
        assert_eq!(refused("a@@b", "10.0.0.1", 1).field, "service");
        assert_eq!(refused("a", "localhost", 1).to_string(), "ip \"localhost\": it is no IP address");
        assert_eq!(refused("a", "0.0.0.0", 1).field, "ip");
        assert_eq!(refused("a", "::", 1).field, "ip");
        assert_eq!(refused("a", "10.0.0.1", 0).field, "port");
        assert_eq!(Instance::new("a", "10.0.0.1", 1).unwrap().weight(f64::NAN).weight, 0.0);
    }
}
