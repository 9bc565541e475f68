//! What a registry is to a program that is registered in it.

use std::time::Duration;

use crate::error::RegistryError;
use crate::instance::Instance;

/// A registry. Its calls block, for `limit` at most; [`registered`](crate::registered) makes them on threads for
/// that.
pub trait Client: Send + Sync + 'static {
    /// What it is called in reports.
    fn describe(&self) -> String;

    /// Puts an instance on its list.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    fn register(&self, instance: &Instance, limit: Duration) -> Result<(), RegistryError>;

    /// Says that an instance lives.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    fn beat(&self, instance: &Instance, limit: Duration) -> Result<Beat, RegistryError>;

    /// Takes an instance off its list. One that is not on it is success.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    fn deregister(&self, instance: &Instance, limit: Duration) -> Result<(), RegistryError>;

    /// The instances of a service that may be used.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    fn list(&self, service: &str, limit: Duration) -> Result<Vec<Instance>, RegistryError>;

    /// How often an instance says that it lives, unless the registry asks for something else.
    fn interval(&self) -> Duration;

    /// After so long at most whoever reads it has learned what it says.
    fn learned_within(&self) -> Duration;
}

/// What a registry says to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Beat {
    /// The instance is known, and stays so.
    Known {
        /// When the next is wanted, if the registry says so.
        next: Option<Duration>,
    },
    /// It is not known: it has to be registered again.
    Unknown,
}
