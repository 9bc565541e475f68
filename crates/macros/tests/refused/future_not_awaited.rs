#![allow(unused)]
use epilogue::*;

async fn close() {}

#[scoped]
async fn work() {
    defer!(close());
}

fn main() {}
