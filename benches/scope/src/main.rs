//! `cargo xtask bench scope`: what a cleanup costs, beside its peers, in one run.
//!
//! Every case is timed in each of many short rounds, so that a slow spell of the machine falls on all
//! of them; the figures are medians over the rounds, and what counts is their ratio. With `--count CASE
//! N` it runs one case N times and nothing else, for a tool that counts instructions.

mod cases;
mod frames;
mod harness;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The panics are the subject, not their messages.
    std::panic::set_hook(Box::new(|_| ()));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = cases::all();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--count", name, times] => {
            let case = all.iter().find(|case| case.name == *name);
            match (case, times.parse()) {
                (Some(case), Ok(times)) => {
                    (case.run)(times);
                    ExitCode::SUCCESS
                }
                _ => usage("no such case, or not a number"),
            }
        }
        [] => {
            for measured in harness::measure(&all) {
                println!("{}\t{:.2}\t{:.2}", measured.name, measured.median_ns, measured.best_ns);
            }
            ExitCode::SUCCESS
        }
        _ => usage("what is wanted?"),
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!(
        "bench-scope: {why}\nusage: bench-scope [--count CASE TIMES]\n\nwithout arguments: CASE, median ns, best ns, with tabs between them, for every case"
    );
    ExitCode::from(2)
}
