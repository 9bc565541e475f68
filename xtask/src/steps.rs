//! The steps of each chore.

use std::process::Command;
use std::time::Instant;

use crate::packages::is_there;

/// Every check there is, the quick ones first.
pub(crate) fn test() -> Result<(), String> {
    let began = Instant::now();
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    step(
        "lints",
        cargo(&["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
    )?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", docs)?;
    if is_there("cargo-deny") {
        step("licences and bans", cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    } else {
        println!("xtask: licences and bans: skipped, cargo-deny is not installed");
    }
    step(
        "unit, doc and integration tests",
        cargo(&["test", "--workspace", "--all-features", "--exclude", "epilogue-cli"]),
    )?;
    seats()?;
    loom()?;
    step("end-to-end tests", cargo(&["test", "-p", "epilogue-cli", "--", "--test-threads=1"]))?;
    println!("xtask: all of it passed in {} s", began.elapsed().as_secs());
    Ok(())
}

/// The one example that is a workspace of its own.
fn seats() -> Result<(), String> {
    let cargo = |args: &[&str]| {
        let mut all = cargo(&args[..1]);
        all.args(["--manifest-path", "examples/seats/Cargo.toml"]).args(&args[1..]);
        all
    };
    let built = ["--locked", "--target-dir", "target"];
    step("seats: format", cargo(&["fmt", "--check"]))?;
    let mut lints = cargo(&["clippy", "--all-targets"]);
    lints.args(built).args(["--", "-D", "warnings"]);
    step("seats: lints", lints)?;
    let mut tests = cargo(&["test"]);
    tests.args(built);
    step("seats: sqlx's SQLite beside ours", tests)
}

/// Fifty rows; the command's own exit status says whether they agree with what is expected.
pub(crate) fn steady() -> Result<(), String> {
    let fifty = ["prove", "--style", "epilogue", "--trigger", "TERM", "--repeat", "50"];
    let mut prove = cargo(&["run", "--release", "--"]);
    prove.args(fifty);
    step("fifty TERM rows", prove)
}

/// Instances of the service, replaced one after the other under load.
pub(crate) fn soak_rolling(requests: u64, style: &str) -> Result<(), String> {
    let built = cargo(&["build", "--release", "-p", "orders", "-p", "bench-rolling"]);
    step("programs for the rolling restarts", built)?;
    let mut roll = Command::new("target/release/bench-rolling");
    roll.args(["--orders", "target/release/orders", "--style", style, "--requests", &requests.to_string()]);
    step("rolling restarts", roll)
}

/// Generations of a service that take over each other's listener under load.
pub(crate) fn soak_upgrade(requests: u64) -> Result<(), String> {
    step("the service and its clients", cargo(&["build", "--release", "-p", "bench-upgrade"]))?;
    let mut load = Command::new("target/release/bench-upgrade");
    load.args(["load", "--requests", &requests.to_string()]);
    step("upgrades", load)
}

/// A million programs of each kind, in release.
pub(crate) fn model() -> Result<(), String> {
    let mut model = cargo(&["test", "--release", "-p", "epilogue", "--test", "model", "--", "--nocapture"]);
    if std::env::var_os("EPILOGUE_MODEL_PROGRAMS").is_none() {
        model.env("EPILOGUE_MODEL_PROGRAMS", "1000000");
    }
    step("random programs", model)
}

/// The models of what threads share.
pub(crate) fn loom() -> Result<(), String> {
    let mut models = cargo(&["test", "--release", "--lib", "--target-dir", "target/loom"]);
    models.args(["-p", "epilogue-task", "-p", "epilogue-journal"]);
    models.env("RUSTFLAGS", "--cfg epilogue_loom");
    step("loom", models)
}

/// What `cargo fuzz` would do, without having to install it.
pub(crate) fn fuzz(seconds: u64) -> Result<(), String> {
    const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
         -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
         -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Zsanitizer=address --cfg fuzzing";
    for target in ["journal", "calls"] {
        let corpus = format!("fuzz/corpus/{target}");
        std::fs::create_dir_all(&corpus).map_err(|error| format!("{corpus}: {error}"))?;
        std::fs::create_dir_all("fuzz/artifacts").map_err(|error| format!("fuzz/artifacts: {error}"))?;
        let mut run = Command::new("cargo");
        run.args(["+nightly", "run", "--release", "--manifest-path", "fuzz/Cargo.toml", "--bin", target])
            .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir", "target/fuzz", "--", &corpus])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix=fuzz/artifacts/{target}-"))
            .args(["-print_final_stats=1", "-use_value_profile=1", "-timeout=10"])
            .env("RUSTFLAGS", COVERAGE)
            .env("ASAN_OPTIONS", "detect_leaks=0")
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN");
        step(&format!("fuzzing {target}"), run)?;
    }
    Ok(())
}

/// The tests of the crates with `unsafe` of their own, under both sanitizers.
pub(crate) fn sanitize() -> Result<(), String> {
    let suppressions = concat!("suppressions=", env!("CARGO_MANIFEST_DIR"), "/tsan.supp");
    let sanitizers = [
        // The ring is mapped for the life of its process, on purpose.
        ("address", "-Zsanitizer=address", "ASAN_OPTIONS", "detect_leaks=0"),
        // std is not instrumented: mixing it in must be allowed in so many words.
        ("thread", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer", "TSAN_OPTIONS", suppressions),
    ];
    for (name, flags, variable, value) in sanitizers {
        // The programs that the tests start, which `--tests` leaves out.
        let mut programs = Command::new("cargo");
        programs
            .args(["+nightly", "build", "--target", "x86_64-unknown-linux-gnu", "--examples"])
            .args(["--target-dir", &format!("target/sanitize-{name}")])
            .args(["-p", "epilogue-journal", "-p", "epilogue-durable", "-p", "epilogue-process"])
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN");
        step(&format!("programs for the {name} sanitizer"), programs)?;
        let mut tests = Command::new("cargo");
        tests
            .args(["+nightly", "test", "--target", "x86_64-unknown-linux-gnu", "--tests"])
            .args(["--target-dir", &format!("target/sanitize-{name}")])
            .args(["-p", "epilogue-scope", "-p", "epilogue-task", "-p", "epilogue-observe", "-p", "epilogue"])
            .args([
                "-p",
                "epilogue-macros",
                "-p",
                "epilogue-journal",
                "-p",
                "epilogue-guardian",
                "-p",
                "epilogue-durable",
            ])
            // Signals of whole programs: see below.
            .args(if name == "address" {
                &["-p", "epilogue-process", "--features", "epilogue-process/axum"][..]
            } else {
                &[]
            })
            // A hundred thousand instrumented frames of a debug build do not fit any stack, and the
            // compiler's words are those of another compiler.
            .args(["--", "--skip", "a_hundred_thousand_run_their_defers"])
            .args(["--skip", "what_is_refused", "--skip", "what_the_compiler_says"])
            // What was freed is kept, to see it used: memory grows. And who is sent SIGSEGV does not die of it.
            .args(["--skip", "a_scope_keeps_nothing", "--skip", "a_crash_are_paid"])
            // Each of hundreds of system calls once more, many times slower: nothing of it is shared memory.
            .args([
                "--skip",
                "at_every_system_call",
                "--skip",
                "stopped_anywhere",
                "--skip",
                "refuses_a_flush",
            ])
            // ThreadSanitizer holds a signal back until the thread that it came to makes a call that it watches:
            // a program that is idle may never hear of it.
            .args(if name == "thread" { &["--skip", "at_their_place_among_its_parts"][..] } else { &[] })
            .env("EPILOGUE_JOURNAL_ROUNDS", "40")
            .env("RUSTFLAGS", flags)
            .env(variable, value)
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN");
        step(&format!("{name} sanitizer"), tests)?;
    }
    if !is_there("valgrind") {
        println!("xtask: valgrind: skipped, it is not installed");
        return Ok(());
    }
    let mut tests =
        cargo(&["test", "--tests", "-p", "epilogue-scope", "-p", "epilogue-task", "-p", "epilogue"]);
    tests
        .args(["--", "--skip", "a_hundred_thousand", "--skip", "ten_thousand_frames"])
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "valgrind -q --error-exitcode=9")
        .env("EPILOGUE_MODEL_PROGRAMS", "500");
    step("valgrind", tests)
}

pub(crate) fn cargo_path() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_path());
    command.args(arguments);
    command
}

fn step(name: &str, mut command: Command) -> Result<(), String> {
    println!("xtask: {name}");
    let began = Instant::now();
    match command.status() {
        Ok(status) if status.success() => {
            println!("xtask: {name}: passed in {} s", began.elapsed().as_secs());
            Ok(())
        }
        Ok(status) => Err(format!("{name} failed ({status}); again: {command:?}")),
        Err(error) => Err(format!("{name} could not be started: {error}")),
    }
}
