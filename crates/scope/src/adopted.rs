//! Which scopes' cleanups another scope has taken on, for what is kept beside the scopes.
//!
//! A pile of what a scope owed is around nothing while somebody holds it. Once another scope has adopted it,
//! it has a place in the order again: whatever that scope takes on later comes before it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// By who has adopted them, the latest last.
type Adopted = BTreeMap<u64, Vec<Adoption>>;

struct Adoption {
    from: u64,
    /// Gone when the pile's turn has come, or it was disarmed.
    owed: Weak<()>,
}

thread_local!(static ADOPTED: RefCell<Adopted> = const { RefCell::new(BTreeMap::new()) });

/// The latest of the scopes whose cleanups `by`, or one that this thread has entered before it, has adopted and
/// still owes; at most so many, the latest first.
pub fn adopted_scopes(by: u64, at_most: usize) -> Vec<u64> {
    let owed = |adopted: &RefCell<Adopted>| {
        let adopted = adopted.borrow();
        let all = adopted.range(..=by).rev().flat_map(|(_, theirs)| theirs.iter().rev());
        all.filter(|one| one.is_owed()).map(|one| one.from).take(at_most).collect()
    };
    // While a thread is torn down none is open.
    ADOPTED.try_with(owed).unwrap_or_default()
}

/// A scope takes on what these owed, for as long as it keeps what is returned.
pub(crate) fn adopt(from: &[u64], by: u64) -> Option<Rc<()>> {
    if from.is_empty() {
        return None;
    }
    let token = Rc::new(());
    let adopt = |adopted: &RefCell<Adopted>| {
        let mut adopted = adopted.borrow_mut();
        // Scopes that are left with all they owed: once in a while.
        if adopted.len() >= MANY && adopted.len().is_power_of_two() {
            adopted.retain(|_, theirs| theirs.iter().any(Adoption::is_owed));
        }
        let theirs = adopted.entry(by).or_default();
        if theirs.len() >= MANY && theirs.len() == theirs.capacity() {
            theirs.retain(Adoption::is_owed);
        }
        theirs.extend(from.iter().map(|from| Adoption { from: *from, owed: Rc::downgrade(&token) }));
    };
    ADOPTED.try_with(adopt).is_ok().then_some(token)
}

/// From so many on it is looked which are over.
const MANY: usize = 16;

/// A scope hands on all it owes. Returns of which others that is.
pub(crate) fn hand_on(by: u64) -> Vec<u64> {
    let gone = ADOPTED.try_with(|adopted| adopted.borrow_mut().remove(&by)).ok().flatten();
    gone.into_iter().flatten().filter(Adoption::is_owed).map(|one| one.from).collect()
}

impl Adoption {
    fn is_owed(&self) -> bool {
        self.owed.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pile, scope};

    fn pile() -> (u64, Pile<'static>) {
        scope(|s| {
            let _asked = s.while_open();
            s.defer(|| ());
            (s.id(), s.pop_all())
        })
    }

    #[test]
    fn what_is_adopted_counts_until_its_turn_has_come_for_its_adopter_and_what_is_within() {
        scope(|outer: &crate::Scope<'_, ()>| {
            scope(|s| {
                let (from, pile) = pile();
                let adopted = s.adopt(pile);
                assert_eq!(adopted_scopes(s.id(), 9), [from]);
                assert_eq!(adopted_scopes(outer.id(), 9), [0; 0], "it is not around what is outside");
                scope(|inner| assert_eq!(adopted_scopes(inner.id(), 9), [from]));
                assert!(s.run_now(adopted));
                assert_eq!(adopted_scopes(s.id(), 9), [0; 0]);
            });
        });
    }

    #[test]
    fn it_goes_with_what_is_handed_on_and_of_many_the_latest_are_told() {
        scope(|s| {
            let all: Vec<u64> = (0..100)
                .map(|_| {
                    let (from, pile) = pile();
                    s.adopt(pile);
                    from
                })
                .collect();
            assert_eq!(adopted_scopes(s.id(), 3), [all[99], all[98], all[97]]);
            let handed = scope(|further| {
                further.adopt(s.pop_all());
                assert_eq!(adopted_scopes(further.id(), 200).len(), 100);
                assert_eq!(adopted_scopes(s.id(), 200).len(), 0);
                further.pop_all()
            });
            drop(handed);
            assert_eq!(adopted_scopes(u64::MAX, 200), [0; 0]);
        });
    }

    #[test]
    fn long_lives_keep_nothing_of_what_is_over() {
        scope(|s| {
            for _ in 0..10_000 {
                let (_, pile) = pile();
                let adopted = s.adopt(pile);
                s.run_now(adopted);
                scope(|s| {
                    s.adopt(self::pile().1);
                });
            }
        });
        let kept: usize =
            ADOPTED.with_borrow(|adopted| adopted.values().map(|theirs| theirs.len() + 1).sum());
        assert!(kept < 200, "{kept}");
    }
}
