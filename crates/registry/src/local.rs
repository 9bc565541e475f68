//! A registry within the process: for tests, and for programs of one process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::client::{Beat, Client};
use crate::error::RegistryError;
use crate::instance::Instance;

/// A registry in memory. Clones are the same one. Nobody is forgotten: whoever dies takes it along.
#[derive(Clone, Debug, Default)]
pub struct Local(Arc<Mutex<Vec<Instance>>>);

impl Local {
    /// An empty one.
    pub fn new() -> Local {
        Local::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client for Local {
    fn describe(&self) -> String {
        "the registry of this process".into()
    }

    fn register(&self, instance: &Instance, _: Duration) -> Result<(), RegistryError> {
        let mut all = self.lock();
        all.retain(|other| !other.is(instance));
        all.push(instance.clone());
        Ok(())
    }

    fn beat(&self, instance: &Instance, _: Duration) -> Result<Beat, RegistryError> {
        let known = self.lock().iter().any(|other| other.is(instance));
        Ok(if known { Beat::Known { next: None } } else { Beat::Unknown })
    }

    fn deregister(&self, instance: &Instance, _: Duration) -> Result<(), RegistryError> {
        self.lock().retain(|other| !other.is(instance));
        Ok(())
    }

    fn list(&self, service: &str, _: Duration) -> Result<Vec<Instance>, RegistryError> {
        Ok(self.lock().iter().filter(|instance| instance.service == service).cloned().collect())
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn learned_within(&self) -> Duration {
        Duration::ZERO
    }
}
