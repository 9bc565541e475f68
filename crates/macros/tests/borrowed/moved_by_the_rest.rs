#![allow(unused)]
use epilogue::*;

#[scoped]
fn work(name: String) {
    defer!(|_| println!("{name}"));
    drop(name);
}

fn main() {}
