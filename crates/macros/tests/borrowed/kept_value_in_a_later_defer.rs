#![allow(unused)]
use epilogue::*;

#[scoped]
fn work() {
    for turn in 0..2 {
        let kept = keep!(turn.to_string(), |_| ());
        defer!(move || println!("{kept}"));
    }
}

fn main() {}
