//! A lock that says that somebody lives: shared by those who do, tried by those who ask.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

/// Takes a lock that others may have too.
pub(crate) fn share(file: &File) {
    // Somebody who asks holds it for a moment.
    for _ in 0..5 * LOOKS {
        if file.try_lock_shared().is_ok() {
            break;
        }
        std::thread::sleep(A_LOOK);
    }
}

/// Whether somebody holds a lock, seen by taking it for a moment. `None`: it cannot be told.
pub(crate) fn is_locked(path: &Path) -> Option<bool> {
    can_be_taken(&OpenOptions::new().read(true).write(true).open(path).ok()?).map(|can| !can)
}

/// Whether somebody else has what this process shares. Meanwhile it is not shared: who looks from beside
/// asks for the owner's share, which this is not.
pub(crate) fn is_locked_besides(own: &File) -> Option<bool> {
    let can = can_be_taken(own);
    share(own);
    can.map(|can| !can)
}

/// Whether nobody else has it. It is let go of.
fn can_be_taken(file: &File) -> Option<bool> {
    // Others who look hold it for a moment as well.
    for look in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => {
                // Not by closing: a child that is forked meanwhile would hold it on.
                let _ = file.unlock();
                return Some(true);
            }
            Err(TryLockError::WouldBlock) if look + 1 < LOOKS => std::thread::sleep(A_LOOK),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return None,
        }
    }
    Some(false)
}

/// How often a lock is looked at before it counts as held, and how long after each other.
const LOOKS: u32 = 10;
const A_LOOK: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_share_is_not_taken_for_somebody_elses_and_is_kept() {
        let path = std::env::temp_dir().join(format!("epilogue-share-{}", crate::run::unique()));
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (own, other) = (open(), open());
        share(&own);
        assert_eq!(is_locked(&path), Some(true));
        assert_eq!(is_locked_besides(&own), Some(false));
        assert_eq!(is_locked(&path), Some(true), "it is shared on");
        share(&other);
        assert_eq!(is_locked_besides(&own), Some(true));
        drop(own);
        assert_eq!(is_locked_besides(&other), Some(false));
        drop(other);
        assert_eq!(is_locked(&path), Some(false));
        std::fs::remove_file(path).unwrap();
    }
}
