#![allow(unused)]
use epilogue::*;

fn main() {
    defer_err!(println!("undo"));
    defer_ok!(println!("done"));
}
