#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    defer!(|end, more| ());
}

fn main() {}
