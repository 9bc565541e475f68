//! `kill -9` at random moments, with writers on every core.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use epilogue_journal::Journal;

/// EPILOGUE_KILLS=300 for the whole of it.
#[test]
fn kill_9_loses_no_record_that_was_acknowledged() {
    let rounds: u64 = std::env::var("EPILOGUE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let dir = std::env::temp_dir().join(format!("epilogue-kill9-{}", std::process::id()));
    let mut seed = u64::from(std::process::id());
    eprintln!("seed {seed}, {rounds} rounds");
    let (mut acknowledged, mut holes, mut unacknowledged) = (0, 0, 0);
    for round in 0..rounds {
        std::fs::create_dir_all(&dir).unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        run_and_kill(&dir, Duration::from_micros(seed >> 33 & 0x7fff));
        let scan = Journal::open(&dir.join("journal")).unwrap().scan().unwrap();
        let open: HashSet<u64> = scan.open().map(|entry| entry.id).collect();
        assert_eq!(scan.damaged, 0, "round {round}");
        holes += scan.holes;
        let (registered, disarmed) = notes(&dir);
        for id in registered.difference(&disarmed) {
            // Its disarm may have been under way.
            let known = scan.find(*id).is_some();
            assert!(open.contains(id) || known, "round {round}: {id} was acknowledged and is lost");
        }
        for id in &disarmed {
            assert!(!open.contains(id), "round {round}: {id} was disarmed and is owed");
        }
        acknowledged += registered.len();
        unacknowledged += open.difference(&registered).count();
        std::fs::remove_dir_all(&dir).unwrap();
    }
    eprintln!(
        "{acknowledged} acknowledged, 0 lost; {unacknowledged} on record without a word, {holes} holes"
    );
    assert!(acknowledged > 1000, "{acknowledged}");
}

fn run_and_kill(dir: &Path, after: Duration) {
    let mut child = Command::new(example("writers"))
        .arg(dir.join("journal"))
        .arg(dir.join("notes"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    // The moment is what is tried.
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn notes(dir: &Path) -> (HashSet<u64>, HashSet<u64>) {
    let (mut registered, mut disarmed) = (HashSet::new(), HashSet::new());
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if !entry.file_name().to_string_lossy().starts_with("notes") {
            continue;
        }
        for word in std::fs::read(entry.path()).unwrap().as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*word);
            if word >> 63 == 1 {
                disarmed.insert(word & (u64::MAX >> 1));
            } else {
                registered.insert(word);
            }
        }
    }
    (registered, disarmed)
}

fn example(name: &str) -> PathBuf {
    // Beside the tests, where cargo has put it.
    let this = std::env::current_exe().unwrap();
    this.parent().unwrap().parent().unwrap().join("examples").join(name)
}
