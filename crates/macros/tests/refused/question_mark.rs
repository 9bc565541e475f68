#![allow(unused)]
use epilogue::*;

fn close() -> Result<(), String> {
    Ok(())
}

#[scoped]
fn work() -> Result<(), String> {
    defer!(close()?);
    Ok(())
}

fn main() {}
