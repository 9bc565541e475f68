#![allow(unused)]
use epilogue::*;

fn main() {
    let mut kept = None;
    scope(|s| kept = Some(s));
}
