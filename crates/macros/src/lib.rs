//! `#[scoped]`: what Go's compiler does to a function that defers, done to a Rust one.
//!
//! The attribute rewrites the statements of one function and nothing else: `return` and `?` are
//! left as they are, and so is every line that does not defer. It knows three storage classes, and
//! Rust's own drop order makes one last-in-first-out order of all three:
//!
//! | a `defer!` that | becomes | may borrow |
//! |---|---|---|
//! | stands in the function's own block | a guard in its place | what was declared before it |
//! | stands in a loop, a branch, a block | an entry of a pile declared before that statement | what was declared before the statement; it owns the rest |
//! | looks at the ending | inline code after the rest of the function, which becomes a closure | anything: it is built when the rest has run |
//!
//! # What this crate does not do
//!
//! It holds no code that runs in the program: what the rewritten function calls is in
//! `epilogue-scope` and `epilogue-task`. It does not look into closures, `async` blocks and nested
//! functions: each is a function of its own, in which `defer!` is an ordinary guard.

mod async_body;
mod call;
mod context;
mod nested;
mod settings;
mod signature;
mod sync_body;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

/// See `epilogue::scoped`.
#[proc_macro_attribute]
pub fn scoped(settings: TokenStream, function: TokenStream) -> TokenStream {
    let settings = parse_macro_input!(settings as settings::Settings);
    let function = parse_macro_input!(function as ItemFn);
    signature::expand(settings, function).into()
}
