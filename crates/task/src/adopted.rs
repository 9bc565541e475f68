//! Which scopes' cleanups another scope was handed, for what is kept beside the scopes: they have a place in its
//! order, before what it takes on later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// By the scope that was handed them, the latest last. Of very many the first are forgotten.
static ADOPTED: Mutex<BTreeMap<u64, Vec<u64>>> = Mutex::new(BTreeMap::new());
/// How many scopes were handed something: mostly none, and then nobody looks.
static ADOPTERS: AtomicUsize = AtomicUsize::new(0);
const MOST: usize = 100;

/// The scopes whose cleanups these have been [handed](crate::AsyncScope::hand_over).
pub fn handed_scopes(by: &[u64]) -> Vec<u64> {
    if by.is_empty() || ADOPTERS.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    let adopted = lock();
    by.iter().filter_map(|by| adopted.get(by)).flatten().copied().collect()
}

/// What one scope owed, and what it was handed itself, is owed by another from now on.
pub(crate) fn adopt(from: u64, its_own: bool, by: u64) {
    let mut adopted = lock();
    let mut theirs = adopted.get(&from).cloned().unwrap_or_default();
    theirs.extend(its_own.then_some(from));
    if theirs.is_empty() {
        return;
    }
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

fn lock() -> MutexGuard<'static, BTreeMap<u64, Vec<u64>>> {
    ADOPTED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(epilogue_loom)))]
mod tests {
    use super::*;
    use crate::async_scope;

    #[tokio::test]
    async fn what_is_handed_over_counts_along_a_chain_until_the_last_is_gone() {
        let last = async_scope(async |outer| {
            let handle = outer.handle();
            let (first, second) = async_scope(async |middle| {
                let to = middle.handle();
                let first = async_scope(async |inner| {
                    inner.defer(async |_| ());
                    let first = inner.id();
                    inner.hand_over(&to).unwrap();
                    first
                })
                .await;
                let second = middle.id();
                assert_eq!(handed_scopes(&[second]), [first]);
                middle.hand_over(&handle).unwrap();
                (first, second)
            })
            .await;
            assert_eq!(handed_scopes(&[outer.id()]), [first, second]);
            assert_eq!(handed_scopes(&[second]), [0; 0], "it is gone");
            outer.id()
        })
        .await;
        assert_eq!(handed_scopes(&[last]), [0; 0]);
    }

    #[tokio::test]
    async fn nothing_is_kept_where_nobody_has_asked_for_the_number() {
        async_scope(async |outer| {
            let handle = outer.handle();
            async_scope(async |inner| {
                inner.defer(async |_| ());
                inner.hand_over(&handle).unwrap();
            })
            .await;
            assert_eq!(handed_scopes(&[outer.id()]), [0; 0]);
        })
        .await;
    }
}
