#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    let tidy = || ();
    defer!(tidy);
}

fn main() {}
