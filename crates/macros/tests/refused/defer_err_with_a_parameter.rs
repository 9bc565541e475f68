#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() -> Result<(), String> {
    defer_err!(|end| ());
    Ok(())
}

fn main() {}
