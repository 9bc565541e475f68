//! Who is registered, by a clock of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Who is registered.
#[derive(Debug, Default)]
pub(super) struct Store {
    all: Vec<Instance>,
    now: Duration,
    pub(super) preserves: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) service: String,
    pub(super) address: SocketAddr,
    pub(super) weight: f64,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) by: Protocol,
    /// Eureka's name for it.
    pub(super) id: String,
    pub(super) heard: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Nacos,
    Eureka,
}

impl Protocol {
    fn unhealthy_after(self) -> Duration {
        Duration::from_secs(if self == Protocol::Nacos { 15 } else { 90 })
    }

    fn gone_after(self) -> Duration {
        Duration::from_secs(if self == Protocol::Nacos { 30 } else { 90 })
    }
}

impl Store {
    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        let (now, preserves) = (self.now, self.preserves);
        let kept = |one: &Instance| {
            (preserves && one.by == Protocol::Eureka) || now - one.heard < one.by.gone_after()
        };
        self.all.retain(kept);
    }

    pub(super) fn forget(&mut self) {
        self.all.clear();
    }

    pub(super) fn register(&mut self, mut instance: Instance) {
        instance.heard = self.now;
        self.all.retain(|other| !(other.is_of(&instance.service) && other.address == instance.address));
        self.all.push(instance);
    }

    /// Whether it is known.
    pub(super) fn beat(&mut self, is_it: impl Fn(&Instance) -> bool) -> bool {
        let now = self.now;
        let mut known = false;
        for one in self.all.iter_mut().filter(|one| is_it(one)) {
            (one.heard, known) = (now, true);
        }
        known
    }

    /// Whether it was known.
    pub(super) fn remove(&mut self, is_it: impl Fn(&Instance) -> bool) -> bool {
        let before = self.all.len();
        self.all.retain(|one| !is_it(one));
        self.all.len() < before
    }

    pub(super) fn of(&self, service: &str) -> impl Iterator<Item = &Instance> {
        self.all.iter().filter(move |one| one.is_of(service))
    }

    pub(super) fn healthy(&self, service: &str) -> impl Iterator<Item = &Instance> {
        self.of(service).filter(|one| self.is_healthy(one))
    }

    /// All that came by Eureka, by their names.
    pub(super) fn applications(&self) -> BTreeMap<String, Vec<Instance>> {
        let mut all: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        for one in self.all.iter().filter(|one| one.by == Protocol::Eureka) {
            all.entry(one.service.clone()).or_default().push(one.clone());
        }
        all
    }

    pub(super) fn is_healthy(&self, one: &Instance) -> bool {
        self.now - one.heard < one.by.unhealthy_after() || (self.preserves && one.by == Protocol::Eureka)
    }
}

impl Instance {
    /// Eureka compares in capitals.
    pub(super) fn is_of(&self, service: &str) -> bool {
        if self.by == Protocol::Eureka {
            self.service.eq_ignore_ascii_case(service)
        } else {
            self.service == service
        }
    }
}
