//! Durable cleanups: on record before the resource exists, paid by whoever is left.
//!
//! A closure dies with its process. A durable cleanup is an [`Action`]: a name and arguments, in a
//! journal that survives `kill -9`. While the program lives it is a cleanup like any other, at its place
//! in the order of its scope; when the program is gone, its guardian runs it, or the program's next start.
//!
//! # Guarantees
//!
//! 1. When [`durable`](DurableScope::durable) has returned, the action is on record, and a guardian exists
//!    that will run it if this process dies.
//! 2. When [`disarm`](Durable::disarm) has returned `true`, it will never run.
//! 3. It runs at its place among the cleanups of its scope: newest first.
//! 4. An action that fails stays on record, and is tried again by the next payer.
//!
//! # What this crate does not do
//!
//! An action may run twice: the process may be killed between the doing and the noting. A forked child
//! owes nothing of what its parent registered. Two processes that must agree on one resource need a lock.
//!
//! # Examples
//!
//! ```
//! use epilogue_durable::{DurableScope, RemoveTree};
//! use epilogue_scope::scope;
//!
//! # let state = std::env::temp_dir().join(format!("epilogue-durable-doc-{}", std::process::id()));
//! # // SAFETY: this example has one thread.
//! # unsafe { std::env::set_var("EPILOGUE_STATE_DIR", &state) };
//! let dir = std::env::temp_dir().join(format!("unpacked-{}", std::process::id()));
//! scope(|s| {
//!     let undo = s.durable(RemoveTree::new(&dir)?)?;      // on record before the directory exists
//!     std::fs::create_dir(&dir)?;
//!     let good = true;                                    // … unpack, check
//!     if good {
//!         std::fs::rename(&dir, dir.with_extension("ready"))?;
//!         undo.disarm();                                  // nothing to undo
//!     }
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! })?;
//! # std::fs::remove_dir(dir.with_extension("ready"))?;
//! # std::fs::remove_dir_all(&state)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod guard;
mod handle;
mod mailbox;
mod owner;
mod scopes;
mod unpaid;

#[cfg(feature = "redis")]
pub use epilogue_guardian::RedisUnlock;
#[cfg(feature = "sql")]
pub use epilogue_guardian::SqlStatement;
pub use epilogue_guardian::{
    Action, ActionCx, ActionError, Capabilities, Directory, Identity, KillGroup, KillMarked, Recovered,
    RemoveFile, RemoveTree, RunCommand, Secret, SecretRef, action, capabilities,
};
#[cfg(feature = "http")]
pub use epilogue_guardian::{Deregister, HttpRequest};
#[cfg(feature = "postgres")]
pub use epilogue_guardian::{SharedStore, pay_shared};
pub use epilogue_journal::{Ended, Tier};
pub use guard::{DurableGuard, guard};
pub use handle::{Durable, DurableError};
pub use owner::{is_guarded, recover};
pub use scopes::{DurableScope, Promise};
