#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    defer!(async { println!("never awaited") });
}

fn main() {}
