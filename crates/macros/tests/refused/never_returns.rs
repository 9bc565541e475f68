#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() -> ! {
    loop {}
}

fn main() {}
