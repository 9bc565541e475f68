#![allow(unused)]
use epilogue::*;

#[scoped(fast)]
fn work() {}

fn main() {}
