#![allow(unused)]
use epilogue::*;

#[scoped]
async fn work(name: &str) {
    defer!(async { println!("{name}") });
}

fn main() {}
