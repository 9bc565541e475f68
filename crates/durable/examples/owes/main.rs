//! A program that owes something durably, and ends in the way it is told: for the tests.
//!
//! `owes WAY DIR`; what it owes writes its name to DIR/ran.

use std::io::Write;
use std::path::PathBuf;

use epilogue_durable::{
    Action, ActionCx, ActionError, Durable, DurableScope, Promise, RunCommand, action, guard, recover,
};
use epilogue_process::{App, Started, part};
use epilogue_scope::scope;
use serde::{Deserialize, Serialize};

mod held;

/// Writes its name to a file: what a cleanup of this program's own does.
#[derive(Serialize, Deserialize)]
struct Mark {
    dir: PathBuf,
    name: String,
}

impl Action for Mark {
    const NAME: &'static str = "owes.mark";
    const ALIASES: &'static [&'static str] = &["owes.old-name"];

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        if self.name == "crashes" {
            // Kills whoever runs it.
            std::process::abort();
        }
        let known: Option<String> = cx.amendment()?;
        let line = format!("{} {}\n", self.name, known.as_deref().unwrap_or("-"));
        Ok(std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("ran"))?
            .write_all(line.as_bytes())?)
    }

    fn describe(&self) -> String {
        format!("mark {}", self.name)
    }
}
action!(Mark);

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, dir] = arguments.as_slice() else {
        eprintln!("usage: owes WAY DIR");
        return 2.into();
    };
    let dir = PathBuf::from(dir);
    let mark = |name: &str| Mark { dir: dir.clone(), name: name.to_owned() };
    match way.as_str() {
        "recover" => {
            let recovered = recover(std::time::Duration::from_secs(10)).expect("a place for the journal");
            println!("{recovered:?}");
        }
        "service" | "service-exits" => return service(way, &dir),
        "recover-now" => drop(recover(std::time::Duration::ZERO)),
        "power" => match scope(|s| s.durable_with(mark("power"), Promise::Power).map(|owed| owed.disarm())) {
            Ok(disarmed) => println!("kept, and disarmed: {disarmed}"),
            Err(error) => println!("{error}"),
        },
        "acks" => acks(&dir),
        "runs-again" => {
            scope(|s| {
                let owed = s.durable(held::Unmount::of(&dir)).expect("registered");
                let error = owed.run_now().expect_err("nobody has allowed it yet");
                std::fs::write(dir.join("allowed"), "").expect("allowed");
                println!("{error}; then {:?} and {:?}", owed.run_now(), owed.run_now());
            });
        }
        "loops" => loops(&dir),
        "collects-no-children" => {
            // SAFETY: a plain call on valid arguments. Some daemons do it, to have no zombies.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            scope(|s| {
                for script in ["exit 0", "exit 1"] {
                    let action = RunCommand::new(["sh", "-c", script]).expect("it is there");
                    let _owed = s.durable(action).expect("registered");
                }
            });
        }
        "crashes" => {
            let _owed = guard(mark("crashes")).expect("registered");
            tell("ready");
            wait();
        }
        way => match held::way(way, &dir) {
            Some(code) => return code,
            None => scoped(way, &mark),
        },
    }
    std::process::ExitCode::SUCCESS
}

fn scoped(way: &str, mark: &dyn Fn(&str) -> Mark) {
    scope(|s| {
        let _one = s.durable(mark("one")).expect("registered");
        let two = s.durable(mark("two")).expect("registered");
        two.amend("known").expect("amended");
        let three = s.durable(mark("three")).expect("registered");
        assert!(three.disarm());
        let four = s.durable(mark("four")).expect("registered");
        tell("ready");
        match way {
            "returns" => {}
            "panics" => panic!("asked to"),
            "aborts" => std::process::abort(),
            "runs-now" => assert!(four.run_now().expect("ran")),
            "forks" => fork(),
            _ => wait(),
        }
    });
}

fn service(way: &str, dir: &std::path::Path) -> std::process::ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(epilogue_process::run(async |app: &App| {
        let mark = |name: &str| Mark { dir: dir.to_owned(), name: name.to_owned() };
        let part_of = |name: &'static str| {
            let stop = mark(name);
            part(name, async move || {
                Ok(Started::new((), async move |_| {
                    let line = format!("{} -\n", stop.name);
                    let mut file =
                        std::fs::File::options().create(true).append(true).open(stop.dir.join("ran"))?;
                    Ok(file.write_all(line.as_bytes())?)
                }))
            })
        };
        app.start(part_of("part-1")).await?;
        let _owed = app.durable(mark("durable-2"))?;
        app.start(part_of("part-3")).await?;
        let disarmed = app.durable(mark("durable-4"))?;
        let _owed = app.durable(mark("durable-5"))?;
        assert!(disarmed.disarm());
        tell("ready");
        if way == "service-exits" {
            std::process::exit(7);
        }
        app.stopping().await;
        Ok(())
    }))
}

/// Registers and disarms for long on one scope of each kind, and tells how much memory it grew by.
fn loops(dir: &std::path::Path) {
    const WARM: usize = 20_000;
    const TURNS: usize = 200_000;
    let mark = || Mark { dir: dir.to_owned(), name: "never".into() };
    let pages = || -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number")
    };
    let grown = |turn: &mut dyn FnMut()| {
        (0..WARM).for_each(|_| turn());
        let before = pages();
        (0..TURNS).for_each(|_| turn());
        pages().saturating_sub(before) * 4096
    };
    // One after the other; and each disarmed when the next is on record.
    let one_by_one = |s: &dyn Fn() -> Durable| grown(&mut || assert!(s().disarm()));
    let hand_over_hand = |s: &dyn Fn() -> Durable| {
        let mut last = s();
        let grown = grown(&mut || assert!(std::mem::replace(&mut last, s()).disarm()));
        last.disarm();
        grown
    };
    let both = |s: &dyn Fn() -> Durable| format!("{} {}", one_by_one(s), hand_over_hand(s));
    let sync = scope(|s| both(&|| s.durable(mark()).expect("registered")));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let asynchronous = runtime
        .block_on(epilogue_task::async_scope(async |s| both(&|| s.durable(mark()).expect("registered"))));
    println!("{sync} {asynchronous}");
}

/// Registers, amends and disarms, and notes after each what it was told.
fn acks(dir: &std::path::Path) {
    let mut notes =
        std::fs::File::options().create(true).append(true).open(dir.join("notes")).expect("notes");
    let mut note = |line: String| notes.write_all(line.as_bytes()).expect("noted");
    let mut held = Vec::new();
    for turn in 0..3 {
        for name in ["kept", "gone"] {
            let name = format!("{name}-{turn}");
            let owed = guard(Mark { dir: dir.to_owned(), name: name.clone() }).expect("registered");
            note(format!("owed {name}\n"));
            if name.starts_with("kept") {
                owed.amend("known").expect("amended");
                note(format!("known {name}\n"));
                held.push(owed);
            } else {
                note(format!("asked {name}\n"));
                assert!(owed.disarm());
                note(format!("disarmed {name}\n"));
            }
        }
    }
    drop(held);
}

/// A child that ends like a program, with all it has from its parent.
fn fork() {
    // SAFETY: the child only returns from `main`, in the one thread that it has.
    match unsafe { libc::fork() } {
        0 => {}
        child => {
            let mut status = 0;
            // SAFETY: `status` is valid for writes.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            tell("child gone");
            wait();
        }
    }
}

pub(crate) fn tell(word: &str) {
    println!("{word}");
}

pub(crate) fn wait() -> ! {
    loop {
        std::thread::park();
    }
}
