//! For tests of programs that stop.
//!
//! [`RegistryServer`] speaks the wire protocols of Nacos and Eureka, with a clock that the test moves and the
//! faults that real servers have.

mod registry;

pub use registry::RegistryServer;
