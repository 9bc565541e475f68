//! The scopes that are live, seen from outside their threads: what no thread dump shows.

use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::{LIST, context, is_on, turn};
use crate::report::Place;

/// Whether scopes that are entered from now on are listed; off at first.
///
/// Listed are scopes, async scopes and functions with `#[scoped]`; a bare guard is not a scope. A
/// scope that was entered while the list was off is not on it.
///
/// # Cost
///
/// Off, one relaxed load a scope. On, two uncontended locks a scope, and two a cleanup.
pub fn list_live_scopes(on: bool) {
    turn(LIST, on);
}

/// The scopes that are live now, oldest first within a shard of the list. A moment of each, not of
/// all together: the program goes on meanwhile.
///
/// # Examples
///
/// ```
/// use epilogue_scope::{record, scope};
///
/// record::list_live_scopes(true);
/// scope(|s| {
///     s.defer(|| ());
///     let seen = std::thread::spawn(record::live_scopes).join().unwrap();   // from anywhere
///     assert_eq!(seen.len(), 1);
///     assert_eq!(seen[0].pending.len(), 1);
/// });
/// assert!(record::live_scopes().is_empty());
/// # record::list_live_scopes(false);
/// ```
pub fn live_scopes() -> Vec<LiveScope> {
    let shards = SHARDS.iter().filter_map(lock);
    shards.flat_map(|shard| shard.entries.iter().flatten().map(Entry::read).collect::<Vec<_>>()).collect()
}

/// A scope that is live, as [`live_scopes`] saw it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveScope {
    /// The task that entered it: its name, or else its thread's.
    pub task: String,
    /// The function that holds it, with its path.
    pub function: String,
    /// `file:line` of the entry.
    pub place: String,
    /// The trace the work belongs to.
    pub trace: Option<u128>,
    /// What is owed, oldest first: it runs in the reverse of this order.
    pub pending: Vec<PendingCleanup>,
}

/// A cleanup that a live scope owes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingCleanup {
    /// `file:line` of the registration.
    pub place: String,
}

/// The place of one scope on the list, for whoever builds a scope; leaves the list when dropped.
#[derive(Debug, Default)]
pub struct Live(Option<At>);

/// A shard and an index in it, in one word that fits a register: a function that is not listed must
/// not pay for the place it does not have.
#[derive(Clone, Copy, Debug)]
struct At(NonZeroUsize);

impl At {
    fn new(shard: usize, index: usize) -> Option<At> {
        NonZeroUsize::new(index * SHARDS.len() + shard + 1).map(At)
    }

    fn shard(self) -> usize {
        (self.0.get() - 1) % SHARDS.len()
    }

    fn index(self) -> usize {
        (self.0.get() - 1) / SHARDS.len()
    }
}

impl Live {
    /// Puts a scope on the list, if there is one. `function` is a type name, of which closures are
    /// cut off.
    #[inline(always)]
    pub fn enter(function: &'static str, place: &'static Location<'static>) -> Live {
        if is_on(LIST) { Live::listed(function, place) } else { Live(None) }
    }

    #[cold]
    fn listed(function: &'static str, place: &'static Location<'static>) -> Live {
        let context = context::current();
        let thread = || std::thread::current().name().unwrap_or("unnamed").into();
        let entry = Entry {
            task: context.task.unwrap_or_else(thread),
            trace: context.trace,
            function,
            place,
            pending: Vec::new(),
        };
        Live(add(entry))
    }

    /// A cleanup is pending from now on.
    #[inline(always)]
    pub fn owes(&self, id: u64, place: &'static Location<'static>) {
        if let Some(at) = self.0 {
            add_pending(at, id, place);
        }
    }

    /// A cleanup is pending no more.
    #[inline(always)]
    pub fn paid(&self, id: u64) {
        if let Some(at) = self.0 {
            remove_pending(at, id);
        }
    }

    /// Nothing is pending any more.
    #[inline(always)]
    pub fn paid_all(&self) {
        if let Some(at) = self.0 {
            change(at, |entry| entry.pending.clear());
        }
    }
}

impl Drop for Live {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(at) = self.0.take() {
            remove(at);
        }
    }
}

/// What a function with `#[scoped]` begins with.
#[doc(hidden)]
#[inline(always)]
#[track_caller]
pub fn enter(function: &'static str) -> Live {
    Live::enter(function, Location::caller())
}

/// What each of its guards begins with.
#[doc(hidden)]
#[inline(always)]
#[track_caller]
pub fn owes(live: &Live, id: u64) {
    live.owes(id, Location::caller());
}

struct Entry {
    task: Arc<str>,
    trace: Option<u128>,
    function: &'static str,
    place: &'static Location<'static>,
    pending: Vec<(u64, &'static Location<'static>)>,
}

impl Entry {
    fn read(&self) -> LiveScope {
        let pending =
            self.pending.iter().map(|(_, place)| PendingCleanup { place: Place(place).to_string() });
        LiveScope {
            task: self.task.to_string(),
            function: self.function.trim_end_matches("::{{closure}}").to_owned(),
            place: Place(self.place).to_string(),
            trace: self.trace,
            pending: pending.collect(),
        }
    }
}

/// One list would be one lock for all threads.
static SHARDS: [Mutex<Shard>; 16] =
    [const { Mutex::new(Shard { entries: Vec::new(), free: Vec::new() }) }; 16];

struct Shard {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
}

#[cold]
fn add(entry: Entry) -> Option<At> {
    let shard = shard_of_this_thread();
    let mut list = lock(&SHARDS[shard])?;
    let index = match list.free.pop() {
        Some(index) => index,
        None => {
            list.entries.push(None);
            list.entries.len() - 1
        }
    };
    list.entries[index] = Some(entry);
    At::new(shard, index)
}

// Not closures given to `change` in place: what those capture would be stored on the path that lists
// nothing.
#[cold]
#[inline(never)]
fn add_pending(at: At, id: u64, place: &'static Location<'static>) {
    change(at, |entry| entry.pending.push((id, place)));
}

#[cold]
#[inline(never)]
fn remove_pending(at: At, id: u64) {
    change(at, |entry| {
        if let Some(index) = entry.pending.iter().rposition(|(pending, _)| *pending == id) {
            entry.pending.remove(index);
        }
    });
}

fn change(at: At, change: impl FnOnce(&mut Entry)) {
    if let Some(mut list) = lock(&SHARDS[at.shard()])
        && let Some(entry) = &mut list.entries[at.index()]
    {
        change(entry);
    }
}

#[cold]
fn remove(at: At) {
    if let Some(mut list) = lock(&SHARDS[at.shard()]) {
        list.entries[at.index()] = None;
        list.free.push(at.index());
    }
}

/// In a forked child a lock may be held by a thread that is not there: then the list is out of
/// date, which is better than a child that hangs.
fn lock(shard: &Mutex<Shard>) -> Option<MutexGuard<'_, Shard>> {
    for _ in 0..10_000 {
        match shard.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

fn shard_of_this_thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    let address = MARK.with(|mark| std::ptr::from_ref(mark).addr());
    // Thread-local blocks lie apart by multiples of large powers of two: the upper bits of a product
    // are mixed, the lower ones are not.
    ((address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize
}
