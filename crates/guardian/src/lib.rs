//! The guardian: pays what a dead process owed.
//!
//! A *run* is a directory with a journal and an owner. When the owner is gone, by whatever means,
//! somebody pays: its wrapper, its guardian (this very program, started again at the first registration),
//! its next start, or `epilogue recover`. Each first takes the run over, so that one pays at a time, and
//! notes before and after every cleanup what it is at.
//!
//! # Guarantees
//!
//! 1. What was registered is started at least once after its owner's death, if any payer runs again on this
//!    machine; newest first.
//! 2. Nothing is paid while its owner, or the command its scope belongs to, lives. Death is a fact told by
//!    the kernel, never a time that has passed.
//! 3. A cleanup that fails is tried again; one that destroys is held back while a newer one of its scope is
//!    unpaid; one that cannot succeed, that this program does not know, or that would act on something else
//!    than was meant, is kept for an operator. None is dropped.
//!
//! # What this crate does not do
//!
//! It cannot outlive what kills everything around it (a container, a control group); [`capabilities()`]
//! says so beforehand, and the next payer pays. A cleanup may run twice: [`ActionCx::key`] is there for
//! resources that can tell. Linux only, so far.

mod action;
mod builtin;
mod capabilities;
mod carriers;
mod child;
mod environment;
mod guard;
mod held;
mod home;
mod identity;
mod leftovers;
mod lock;
mod log;
mod operator;
mod order;
mod os;
mod pay;
mod proc;
mod recover;
mod run;
mod scope;
mod secret;
#[cfg(feature = "postgres")]
mod shared;
mod sweep;
mod wrap;

pub use action::{Action, ActionCx, ActionError, Call, TIMEOUT, When};
#[cfg(feature = "redis")]
pub use builtin::RedisUnlock;
#[cfg(feature = "sql")]
pub use builtin::SqlStatement;
#[cfg(feature = "http")]
pub use builtin::{Deregister, HttpRequest};
pub use builtin::{
    Directory, Identity, KillGroup, KillMarked, MARK_ENV, RecoverRun, RemoveFile, RemoveTree, RunCommand,
};
pub use capabilities::{Capabilities, capabilities};
pub use child::Output;
pub use environment::{Captured, capture, current_hash};
pub use guard::Guardian;
pub use home::{Home, HomeError, STATE_ENV};
pub use identity::{Alive, alive, boot_id, parent_of, pid_namespace, start_of, this_process};
pub use log::{Attempt, Past, attempts, ended_words, past, signal_name};
pub use operator::{drop_record, retry};
pub use os::{effective_uid, is_set_uid};
pub use pay::{About, Item, Options, Report, Runner, WHOLE_RUN, depends, describe, pay, pay_store, run_here};
pub use recover::{Recovered, pay_dead, recover_all, recover_run};
pub use run::{NewRun, OnWrapperDeath, Run, RunError, Settings, now_ms};
pub use scope::{OUTER_ENV, SCOPE_ENV, ScopeRef};
pub use secret::{Secret, SecretRef};

#[cfg(feature = "postgres")]
pub use shared::{PaidOwner, SharedStore, pay_shared};
pub use wrap::{Leftovers, Wrap, WrapError, Wrapped, exec_with_listen_pid};

#[doc(hidden)]
pub mod __private {
    pub use crate::action::{ACTIONS, Known};
    pub use linkme::{self, distributed_slice};
}
