//! Service registries: Nacos, Eureka, and one in the process itself.
//!
//! An instance that is [registered] sends heartbeats, registers again when the registry has forgotten
//! it, and leaves **at once** when the program begins to stop: at the same moment at which readiness goes off,
//! not when its turn in the stack has come. Whoever reads the registry learns that only with its next poll, so the
//! servers of the program keep their listeners open until then: that wait and their own run at the same time.
//!
//! # What this crate does not do
//!
//! It keeps no promise after a `kill -9`: for that there is `Deregister`, a durable cleanup. It does not balance
//! load: [`Client::list`] tells who is there. It speaks HTTP, not the gRPC of Nacos' own client.
//!
//! # Examples
//!
//! ```
//! use epilogue_process::{App, Options, run_with};
//! use epilogue_registry::{Client, Instance, Local, registered};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let registry = Local::new();                     // or Nacos::at("http://nacos:8848/nacos")
//! let seen = registry.clone();
//! run_with(Options::embedded(), async |app: &App| {
//!     // … start the server first: the registry is left before it
//!     let instance = Instance::new("orders", "10.0.0.7", 8080)?;
//!     app.start(registered(registry, instance)).await?;
//!     assert_eq!(seen.list("orders", Duration::from_secs(1))?.len(), 1);
//!     Ok(())
//! })
//! .await;
//! assert!(seen.list("orders", Duration::from_secs(1)).unwrap().is_empty());
//! # }
//! ```

mod client;
mod error;
mod eureka;
mod http;
mod instance;
mod local;
mod nacos;
mod registration;

pub use client::{Beat, Client};
pub use error::{InvalidInstance, RegistryError};
pub use eureka::Eureka;
pub use instance::Instance;
pub use local::Local;
pub use nacos::Nacos;
pub use registration::{Registered, Registration, registered};
