#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    let closure = || {
        defer!(|end| println!("{:?}", end.how()));
    };
}

fn main() {}
