//! Starting a guardian, and what it weighs while it waits.

use std::path::Path;
use std::time::{Duration, Instant};

use epilogue_guardian::{Guardian, Home, NewRun, Run};
use epilogue_journal::Tier;

use crate::{median, tell};

const ROUNDS: usize = 41;

pub(crate) fn measure(dir: &Path) {
    let home = Home::find(Some(&dir.join("guardians")), Tier::Process).expect("a home");
    let (mut call, mut armed, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let run = Run::create(&home, NewRun::default()).expect("a run");
        let began = Instant::now();
        let guardian = Guardian::start(&run.dir).expect("a guardian");
        call.push(began.elapsed().as_secs_f64() * 1e6);
        while !guardian.is_armed() {
            std::thread::yield_now();
        }
        armed.push(began.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(Duration::from_millis(2));
        if let Some(pid) = guardian.pid() {
            memory.extend(weigh(pid));
            guardian.dismiss();
            // SAFETY: no memory is passed; it was not waited for yet, or is gone.
            unsafe { libc::kill(i32::try_from(pid).expect("a pid"), libc::SIGKILL) };
        }
        run.remove().expect("removed");
    }
    tell("start of a guardian", "until the call returns", median(call), "µs");
    tell("start of a guardian", "until it watches", median(armed), "µs");
    for (index, who) in ["resident", "its share", "its own"].into_iter().enumerate() {
        let each = memory.iter().map(|weights: &[f64; 3]| weights[index]).collect();
        tell("memory of an idle guardian", who, median(each), "KiB");
    }
}

fn weigh(pid: u32) -> Option<[f64; 3]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let of = |name: &str| -> Option<f64> {
        text.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
    };
    Some([of("Rss:")?, of("Pss:")?, of("Private_Dirty:")?])
}
