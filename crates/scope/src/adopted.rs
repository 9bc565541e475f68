//! Which scopes' cleanups another scope has taken on, for what is kept beside the scopes.
//!
//! A pile of what a scope owed is around nothing while somebody holds it. Once another scope has adopted it,
//! it has a place in the order again: whatever that scope takes on later comes before it.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

struct Adoption {
    from: u64,
    by: u64,
    /// Gone when the pile's turn has come, or it was disarmed.
    owed: Weak<()>,
}

thread_local!(static ADOPTED: RefCell<Vec<Adoption>> = const { RefCell::new(Vec::new()) });

/// The scopes whose cleanups another one of this thread has adopted and still owes, each with the number of
/// that one.
pub fn adopted_scopes() -> Vec<(u64, u64)> {
    let owed = |adopted: &RefCell<Vec<Adoption>>| {
        let adopted = adopted.borrow();
        adopted.iter().filter(|one| one.owed.strong_count() > 0).map(|one| (one.from, one.by)).collect()
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
    let owed = Rc::downgrade(&token);
    let adopt = |adopted: &RefCell<Vec<Adoption>>| {
        let mut adopted = adopted.borrow_mut();
        adopted.retain(|one| one.owed.strong_count() > 0);
        adopted.extend(from.iter().map(|from| Adoption { from: *from, by, owed: owed.clone() }));
    };
    ADOPTED.try_with(adopt).is_ok().then_some(token)
}

/// A scope hands on all it owes. Returns of which others that is.
pub(crate) fn hand_on(by: u64) -> Vec<u64> {
    let hand_on = |adopted: &RefCell<Vec<Adoption>>| {
        let of = |one: &mut Adoption| one.by == by || one.owed.strong_count() == 0;
        let gone = adopted.borrow_mut().extract_if(.., of).collect::<Vec<_>>();
        gone.into_iter().filter(|one| one.owed.strong_count() > 0).map(|one| one.from).collect()
    };
    ADOPTED.try_with(hand_on).unwrap_or_default()
}
