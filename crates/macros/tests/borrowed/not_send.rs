#![allow(unused)]
use epilogue::*;

use std::rc::Rc;

#[scoped]
async fn work(shared: Rc<String>) {
    for _ in 0..2 {
        let own = shared.clone();
        defer!(move || println!("{own}"));
    }
}

fn main() {}
