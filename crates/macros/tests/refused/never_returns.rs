#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() -> ! {
    defer!(|end| println!("{:?}", end.how()));
    loop {}
}

fn main() {}
