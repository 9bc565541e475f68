#![allow(unused)]
use epilogue::*;

#[tokio::main]
#[scoped]
async fn main() {
    for turn in 0..2 {
        defer!(move || println!("{turn}"));
    }
}
