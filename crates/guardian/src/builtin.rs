//! Actions that every program knows.

mod command;
mod kill;
mod nested;
mod remove;

pub use command::{Directory, RunCommand};
pub use kill::{KillGroup, KillMarked, MARK_ENV};
pub use nested::RecoverRun;
pub use remove::{Identity, RemoveFile, RemoveTree};

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
