//! Which scopes' cleanups another scope was handed: they have a place in its order, before what it takes on
//! later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By the scope that was handed them, the latest last. A scope that is handed more forgets the first.
static ADOPTED: Mutex<BTreeMap<u64, Vec<u64>>> = Mutex::new(BTreeMap::new());
/// How many scopes were handed something: mostly none, and then nobody looks.
static ADOPTERS: AtomicUsize = AtomicUsize::new(0);
const MOST: usize = 100;

/// What one scope owed is owed by another from now on.
pub(crate) fn adopt(from: u64, by: u64) {
    let mut adopted = lock();
    let mut theirs = adopted.get(&from).cloned().unwrap_or_default();
    theirs.push(from);
    let own = adopted.entry(by).or_default();
    own.retain(|one| !theirs.contains(one));
    own.append(&mut theirs);
    own.drain(..own.len().saturating_sub(MOST));
    ADOPTERS.store(adopted.len(), Ordering::Release);
}

/// The scope is gone, with all it was handed.
pub(crate) fn forget(by: u64) {
    let mut adopted = lock();
    adopted.remove(&by);
    ADOPTERS.store(adopted.len(), Ordering::Release);
}

/// Each scope followed by those whose cleanups it was handed.
pub(crate) fn with_adopted(scopes: Vec<u64>) -> Vec<u64> {
    if scopes.is_empty() || ADOPTERS.load(Ordering::Acquire) == 0 {
        return scopes;
    }
    let adopted = lock();
    let with = |scope| [scope].into_iter().chain(adopted.get(&scope).into_iter().flatten().copied());
    scopes.into_iter().flat_map(with).collect()
}

fn lock() -> MutexGuard<'static, BTreeMap<u64, Vec<u64>>> {
    ADOPTED.lock().unwrap_or_else(PoisonError::into_inner)
}
