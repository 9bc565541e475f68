#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    let kept = keep!(1);
}

fn main() {}
