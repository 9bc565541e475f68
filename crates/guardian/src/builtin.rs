//! Actions that every program knows.

mod command;
#[cfg(feature = "http")]
mod http;
mod kill;
mod nested;
#[cfg(feature = "redis")]
mod redis;
mod remove;
#[cfg(feature = "sql")]
mod sql;

pub(crate) use command::KEY_ENV;
pub use command::{Directory, RunCommand};
#[cfg(feature = "http")]
pub use http::{Deregister, HttpRequest};
pub use kill::{KillGroup, KillMarked, MARK_ENV};
pub use nested::RecoverRun;
#[cfg(feature = "redis")]
pub use redis::RedisUnlock;
pub use remove::{Identity, RemoveFile, RemoveTree};

#[cfg(feature = "sql")]
pub use sql::SqlStatement;

use linkme::distributed_slice;

use crate::action::{ACTIONS, Known};

#[distributed_slice(ACTIONS)]
static REMOVE_FILE: Known = Known::of::<RemoveFile>(false);
#[distributed_slice(ACTIONS)]
static REMOVE_TREE: Known = Known::of::<RemoveTree>(false);
#[distributed_slice(ACTIONS)]
static KILL_GROUP: Known = Known::of::<KillGroup>(false);
#[distributed_slice(ACTIONS)]
static RUN_COMMAND: Known = Known::of::<RunCommand>(false);
#[distributed_slice(ACTIONS)]
static RECOVER_RUN: Known = Known::of::<RecoverRun>(false);
#[distributed_slice(ACTIONS)]
static KILL_MARKED: Known = Known::of::<KillMarked>(false);
#[cfg(feature = "http")]
#[distributed_slice(ACTIONS)]
static HTTP: Known = Known::of::<HttpRequest>(false);
#[cfg(feature = "http")]
#[distributed_slice(ACTIONS)]
static DEREGISTER: Known = Known::of::<Deregister>(false);
#[cfg(feature = "redis")]
#[distributed_slice(ACTIONS)]
static REDIS_UNLOCK: Known = Known::of::<RedisUnlock>(false);
#[cfg(feature = "sql")]
#[distributed_slice(ACTIONS)]
static SQL: Known = Known::of::<SqlStatement>(false);
