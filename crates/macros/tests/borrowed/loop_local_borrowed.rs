#![allow(unused)]
use epilogue::*;

#[scoped]
fn work(names: &[&str]) {
    for name in names {
        let own = name.to_string();
        defer!(println!("{own}"));
    }
}

fn main() {}
