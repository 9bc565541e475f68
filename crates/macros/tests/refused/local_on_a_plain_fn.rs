#![allow(unused)]
use epilogue::*;

#[scoped(local)]
fn work() {}

fn main() {}
