#![allow(unused)]
use epilogue::*;

#[scoped]
async fn work() {
    for turn in 0..2 {
        defer!(move || println!("{turn}"));
        defer!(async move { println!("{turn}") });
    }
}

fn main() {}
