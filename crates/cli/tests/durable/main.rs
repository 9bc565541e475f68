//! Whole programs: real shells, real signals, real kills. Names read as the law.

mod kills;
mod machine;
mod namespaces;
mod operators;
mod reach;
mod refused;
mod rig;
mod scopes;
mod statuses;
mod terminal;
