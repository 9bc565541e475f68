//! The command as a user runs it: real processes, real signals, a real browser.
//!
//! The tests take turns: each puts a machine of two cores under load, and a late load generator is
//! no verdict.

mod bad_input;
mod builtin;
mod foreign;
mod interrupted;
mod page;
mod support;
