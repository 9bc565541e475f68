#![allow(unused)]
use epilogue::*;

fn main() {
    let kept = keep!(1, |_| ());
}
