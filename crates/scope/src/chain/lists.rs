//! The two thread-local lists beside the unwinder, and the marks that keep boundaries apart.

use std::cell::{Cell, RefCell};

use super::link::{Note, address};
use super::{Chain, Link, Payload};
use crate::report;

/// How long the two lists were when a boundary was entered. What lies below belongs to outer
/// boundaries: a freed box's address can be used again, so a lookup must not reach there.
///
/// Both lengths in one word: it is read and compared at every boundary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    #[inline(always)]
    pub(crate) fn here() -> Mark {
        let mark = LENGTHS.get();
        if mark.0 == 0 { mark } else { Mark::after_purge() }
    }

    /// On a thread that does not unwind, what is in the lists was left there by a foreign
    /// `catch_unwind`, and no boundary will come for it: it is reported. But for panics of guards that
    /// wait for the boundary of their own function, which is being left.
    #[cold]
    fn after_purge() -> Mark {
        if !std::thread::panicking() && !has_late() {
            let none = Mark(0);
            report_orphans(take_overtaking(none).into_iter().map(|kept| kept.payload));
            for filed in Filing::since(none).0 {
                report_orphans(filed.older.into_iter().map(Link::into_payload));
            }
        }
        LENGTHS.get()
    }

    fn new(overtaking: usize, history: usize) -> Mark {
        let length = |length: usize| u64::from(u32::try_from(length).unwrap_or(u32::MAX));
        Mark(length(overtaking) << 32 | length(history))
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Mark {
        Mark(bits)
    }

    fn overtaking(self) -> usize {
        (self.0 >> 32) as usize
    }

    fn history(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    /// Whether the lists are as they were: nothing is to be settled.
    #[inline(always)]
    pub(crate) fn is_settled(self) -> bool {
        LENGTHS.get() == self
    }

    /// The chain of a payload that was just caught at this mark.
    #[cold]
    pub(crate) fn chain_of(self, caught: Payload) -> Chain {
        let mut filed = Filing::since(self);
        let mut links = Vec::with_capacity(1);
        filed.read(caught, &mut links);
        for kept in take_overtaking(self) {
            filed.read(kept.payload, &mut links);
        }
        Chain::of(links)
    }

    /// After a normal return: what the lists hold that came since.
    ///
    /// On a thread that is unwinding, a guard cannot tell whether it is dropped by the unwinding or at
    /// the end of its block, inside of a cleanup; and where the boundary is of the guard's own function,
    /// it keeps its panic so as not to take the function's result away. Those are given back, to be
    /// raised. Any other a foreign `catch_unwind` has left behind: it belongs to nobody any more, so it
    /// is reported.
    #[cold]
    pub(crate) fn settle(self) -> Option<Chain> {
        let left = take_overtaking(self);
        if !std::thread::panicking() && !left.iter().any(|kept| kept.late) {
            report_orphans(left.into_iter().map(|kept| kept.payload));
            self.truncate_history();
            return None;
        }
        let mut filed = Filing::since(self);
        let mut links = Vec::new();
        left.into_iter().for_each(|kept| filed.read(kept.payload, &mut links));
        (!links.is_empty()).then(|| Chain::of(links))
    }

    pub(crate) fn truncate_history(self) {
        drop(Filing::since(self));
    }
}

/// Keeps a panic that escaped a cleanup while the thread was unwinding already.
#[cold]
#[inline(never)]
pub(crate) fn keep_overtaking(payload: Payload) {
    keep(Kept { payload, late: false });
}

/// Keeps a panic of a guard whose function has a boundary around it, and may have returned a result.
#[cold]
#[inline(never)]
pub(crate) fn keep_late(payload: Payload) {
    keep(Kept { payload, late: true });
}

fn keep(kept: Kept) {
    let mut kept = Some(kept);
    let listed = LISTS.try_with(|lists| {
        lists.overtaking.borrow_mut().extend(kept.take());
        lists.note_lengths();
    });
    if listed.is_err() {
        // The thread is being torn down: no boundary can follow.
        report_orphans(kept.into_iter().map(|kept| kept.payload));
    }
}

/// Files `older` links under the address of the newest one, which is about to be raised.
pub(super) fn file(newest: Link, older: Vec<Link>) -> Payload {
    let (mut payload, recovered) = newest.split();
    if older.is_empty() && recovered.is_empty() {
        return payload;
    }
    if size_of_val(&*payload) == 0 {
        payload = Box::new(Carried(payload, 0));
    }
    let address = address(&payload);
    // Where the thread is being torn down, the older links go down with it.
    let _ = LISTS.try_with(|lists| {
        lists.history.borrow_mut().push(Filed { address, older, recovered });
        lists.note_lengths();
    });
    payload
}

#[cold]
fn report_orphans(orphans: impl IntoIterator<Item = Payload>) {
    for orphan in orphans.into_iter().filter(|orphan| !super::is_exit(&**orphan)) {
        report::panicked("a cleanup on an unwinding thread", &*orphan);
    }
}

thread_local! {
    // Read at every boundary: no destructor, so no registration check on the good path.
    static LENGTHS: Cell<Mark> = const { Cell::new(Mark(0)) };
    static LISTS: Lists = const { Lists {
        overtaking: RefCell::new(Vec::new()),
        history: RefCell::new(Vec::new()),
    } };
}

struct Lists {
    overtaking: RefCell<Vec<Kept>>,
    history: RefCell<Vec<Filed>>,
}

/// A panic that waits for its boundary.
struct Kept {
    payload: Payload,
    late: bool,
}

/// The older links of a payload in flight.
struct Filed {
    address: usize,
    older: Vec<Link>,
    recovered: Vec<Note>,
}

impl Lists {
    fn note_lengths(&self) {
        LENGTHS.set(Mark::new(self.overtaking.borrow().len(), self.history.borrow().len()));
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        report_orphans(std::mem::take(self.overtaking.get_mut()).into_iter().map(|kept| kept.payload));
        for filed in std::mem::take(self.history.get_mut()) {
            report_orphans(filed.older.into_iter().map(Link::into_payload));
        }
    }
}

/// A payload of size zero has no address of its own, so it travels in this box while it has a
/// history.
struct Carried(Payload, #[allow(dead_code, reason = "gives the box an address")] u8);

/// What was filed since a mark, taken out to be looked through.
struct Filing(Vec<Filed>);

impl Filing {
    fn since(mark: Mark) -> Filing {
        if LENGTHS.get().history() == mark.history() {
            return Filing(Vec::new());
        }
        let taken = LISTS.try_with(|lists| {
            let taken = split_off(&lists.history, mark.history());
            lists.note_lengths();
            taken
        });
        Filing(taken.unwrap_or_default())
    }

    /// Adds a payload with its older links.
    fn read(&mut self, payload: Payload, links: &mut Vec<Link>) {
        let wanted = address(&payload);
        let filed = self.0.iter().rposition(|filed| filed.address == wanted).map(|at| self.0.swap_remove(at));
        let payload = match payload.downcast::<Carried>() {
            Ok(carried) => carried.0,
            Err(payload) => payload,
        };
        match filed {
            Some(Filed { older, recovered, .. }) => {
                links.extend(older);
                links.push(Link::join(payload, recovered));
            }
            None => links.push(Link::new(payload)),
        }
    }
}

fn has_late() -> bool {
    LISTS.try_with(|lists| lists.overtaking.borrow().iter().any(|kept| kept.late)).unwrap_or(false)
}

fn take_overtaking(mark: Mark) -> Vec<Kept> {
    if LENGTHS.get().overtaking() == mark.overtaking() {
        return Vec::new();
    }
    let taken = LISTS.try_with(|lists| {
        let taken = split_off(&lists.overtaking, mark.overtaking());
        lists.note_lengths();
        taken
    });
    taken.unwrap_or_default()
}

fn split_off<T>(list: &RefCell<Vec<T>>, from: usize) -> Vec<T> {
    let mut list = list.borrow_mut();
    let from = from.min(list.len());
    list.split_off(from)
}
