#![allow(unused)]
use epilogue::*;

#[scoped]
async fn work() -> impl Iterator<Item = u8> {
    defer!(|end| println!("{:?}", end.how()));
    0..3
}

fn main() {}
