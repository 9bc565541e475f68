#![allow(unused)]
use epilogue::*;

struct Cache(Vec<String>);

impl Cache {
    #[scoped]
    fn first(&mut self) -> &mut String {
        defer!(|_| println!("{}", self.0.len()));
        &mut self.0[0]
    }
}

fn main() {}
