#![allow(unused)]
use epilogue::*;

fn main() {
    defer!(async { println!("never awaited") });
}
