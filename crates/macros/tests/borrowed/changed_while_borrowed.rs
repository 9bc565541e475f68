#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    let mut count = 0;
    defer!(println!("{count}"));
    count += 1;
}

fn main() {}
