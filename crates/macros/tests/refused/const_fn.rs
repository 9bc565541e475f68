#![allow(unused)]
use epilogue::*;

#[scoped]
const fn work() -> u8 {
    1
}

fn main() {}
