#![allow(unused)]
use epilogue::*;

fn main() {
    defer!(|end| println!("{:?}", end.how()));
}
