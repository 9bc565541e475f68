#![allow(unused)]
use epilogue::*;

#[scoped]
fn work(lines: &[&str]) {
    assert!({
        defer!(println!("unseen"));
        true
    });
}

fn main() {}
