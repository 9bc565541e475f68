#![allow(unused)]
use epilogue::*;

#[scoped]
async fn work() {
    for _ in 0..2 {
        defer!(|end| println!("{:?}", end.how()));
    }
}

fn main() {}
