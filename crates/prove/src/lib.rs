//! Ends a program every way there is, under load, and says from outside what was lost.
//!
//! An exit status says little about a stop: a server can exit 0 in 14 ms and have cut off every
//! request it was answering. So everything is judged from the client's side: requests proven to be
//! in flight, requests on idle connections, requests that a router keeps sending for a while,
//! acknowledged writes read back after a restart, and what stays in files, sockets, ports and
//! children.
//!
//! The conditions model a load balancer: for a time after termination begins it keeps sending
//! ([`Conditions::lag`]), because it does not know yet.
//!
//! # What this crate does not do
//!
//! It speaks HTTP/1.1 on 127.0.0.1, without TLS. It runs on Linux, and looks into `/proc`. A daemon
//! that forks away before the program is ready, with an environment of its own, escapes it. It
//! prints nothing but what went wrong while it cleaned up: see [`Progress`] and [`table()`].

mod client;
mod ending;
mod expect;
mod html;
mod in_flight;
mod judge;
mod leaks;
mod leftovers;
mod load;
mod os;
mod outcome;
mod procfs;
mod prove;
mod report;
mod restart;
mod row;
mod running;
mod table;
mod target;
mod trigger;

pub use client::Ask;
pub use expect::{Expect, Rule};
pub use judge::Verdict;
pub use leftovers::report_dir;
pub use load::LoadSpec;
pub use outcome::{Counts, Outcome};
pub use prove::{Progress, Proof, ProveError, Watcher, prove};
pub use report::{
    Bin, CleanupsReport, ConditionsReport, ExitReport, GeneratorReport, LeakReport, LedgerReport, Report,
    Row, TargetReport,
};
pub use row::{Conditions, Prestop, RowError};
pub use running::StartError;
pub use table::{Paint, summary, table};
pub use target::{LedgerSpec, Target, TargetError, parse_ask, parse_path};
pub use trigger::{Trigger, UnknownTrigger};
