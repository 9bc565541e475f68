//! For tests of programs that stop.
//!
//! - [`each_fault`] runs a program once for each fault that each of its parts may have: a start or a stop that fails,
//!   panics, hangs or is slow. [`Faults::part`] and [`faulty`] inject one by hand.
//! - [`stop_at_every_await`] runs a program once for each `.await` at which its body waits, and stops it there;
//!   [`drop_at_every_await`] does it to any future, by dropping it.
//! - [`RegistryServer`] speaks the wire protocols of Nacos and Eureka, with a clock that the test moves and the
//!   faults that real servers have.
//!
//! Signals are simulated by [`App::signal`](epilogue_process::App::signal). Time is tokio's: with
//! `#[tokio::test(start_paused = true)]` a hang of thirty seconds takes none (in real time one part alone takes most of a
//! minute). That attribute is of tokio's feature `test-util`, which is not part of `full`:
//!
//! ```toml
//! [dev-dependencies]
//! epilogue-testkit = { path = "…/crates/testkit" }
//! tokio = { version = "1", features = ["full", "test-util"] }
//! ```

mod awaits;
mod faults;
mod registry;

pub use awaits::{drop_at_every_await, stop_at_every_await};
pub use faults::{Fault, FaultRun, Faults, Faulty, each_fault, faulty};
pub use registry::RegistryServer;
