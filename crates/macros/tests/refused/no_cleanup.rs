#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    defer!();
}

fn main() {
    defer!();
}
