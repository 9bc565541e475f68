#![allow(unused)]
use epilogue::*;

fn tidy() {}

fn main() {
    defer!(tidy);
}
