#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    defer!(func() { println!("as in Go") });
}

#[scoped]
fn loops() {
    for _ in 0..2 {
        defer!(func() { println!("as in Go") });
    }
}

fn main() {
    work();
    loops();
}
