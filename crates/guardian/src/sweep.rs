//! What is left of runs that were never made whole, or were paid and not quite removed.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// Removes what is left of runs that were never made whole, or were paid and not quite removed.
pub(crate) fn sweep(home: &Path) {
    for dir in fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let ours = ["run.json", "alive", "alive.new"].iter().any(|name| dir.join(name).exists());
        if dir.is_dir() && ours && !dir.join("journal").exists() {
            remove_if_abandoned(&dir);
        }
    }
}

/// So long at most somebody takes from the making of a lock to its taking, or is stopped in between.
const A_START: Duration = Duration::from_secs(10);
/// What nobody has touched for so long is nobody's.
const LONG: Duration = Duration::from_secs(3600);

/// Removes what nobody is making into a run at the moment. Who makes one holds its lock.
fn remove_if_abandoned(dir: &Path) {
    let unchanged_for = |long: Duration| {
        let changed = fs::metadata(dir).and_then(|found| found.modified());
        changed.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > long))
    };
    let open = |name: &str| File::options().read(true).write(true).open(dir.join(name));
    let alive = match open("alive").or_else(|_| open("alive.new")) {
        // One that is just made is not locked yet, for a moment.
        Ok(alive) if (dir.join("alive").exists() || unchanged_for(A_START)) && alive.try_lock().is_ok() => {
            Some(alive)
        }
        Err(_) if unchanged_for(LONG) => None,
        _ => return,
    };
    // It may have been made whole between the look and the lock.
    if !dir.join("journal").exists() {
        let _ = fs::remove_dir_all(dir);
    }
    drop(alive);
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_nobody_is_making_is_removed_and_what_somebody_is_is_not() {
        let home = std::env::temp_dir().join(format!("epilogue-sweep-{}", crate::run::unique()));
        let make = |name: &str, files: &[&str], age: Duration| {
            let dir = home.join(name);
            fs::create_dir_all(&dir).unwrap();
            files.iter().for_each(|file| fs::write(dir.join(file), "").unwrap());
            File::open(&dir).unwrap().set_modified(SystemTime::now() - age).unwrap();
            dir
        };
        let (now, some, long) = (Duration::ZERO, 2 * A_START, 2 * LONG);
        let gone = [
            make("died-before-its-lock", &["run.json"], long),
            make("died-with-its-lock-unnamed", &["run.json", "alive.new"], some),
            make("died-with-its-lock", &["run.json", "alive"], now),
        ];
        let kept = [
            make("just-begun", &["run.json"], some),
            make("just-made-its-lock", &["run.json", "alive.new"], now),
            make("holds-its-lock-unnamed", &["run.json", "alive.new"], some),
            make("holds-its-lock", &["run.json", "alive"], some),
            make("whole", &["run.json", "alive", "journal"], long),
            make("somebody-elses", &["run"], long),
        ];
        let hold = |dir: &Path, name| {
            let lock = File::open(dir.join(name)).unwrap();
            lock.try_lock_shared().unwrap();
            lock
        };
        let held = [hold(&kept[2], "alive.new"), hold(&kept[3], "alive")];
        sweep(&home);
        assert!(gone.iter().all(|dir| !dir.exists()), "{gone:?}");
        assert!(kept.iter().all(|dir| dir.exists()), "{kept:?}");
        drop(held);
        fs::remove_dir_all(home).unwrap();
    }
}
