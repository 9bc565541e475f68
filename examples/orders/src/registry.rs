//! This instance in a registry, if there is one.

use std::time::Duration;

use epilogue::registry::{Instance, InvalidInstance, Nacos};

use crate::Settings;

/// The registry, and what is said of this instance in it.
///
/// # Errors
///
/// When it could not be registered by that name.
pub fn of(settings: &Settings) -> Result<Option<(Nacos, Instance)>, InvalidInstance> {
    let Some(url) = &settings.registry else { return Ok(None) };
    let nacos = Nacos::at(url).polled_every(Duration::from_secs(settings.registry_poll));
    Ok(Some((nacos, Instance::new("orders", "127.0.0.1", settings.port)?)))
}
