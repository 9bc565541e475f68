//! What an async scope owes, as everybody shares it: the scope, its handles, and the lane.

use std::cell::Cell;
use std::future::Future;
use std::panic::Location;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use epilogue_scope::__private::{Place, fresh_scope_id};
use epilogue_scope::record::{Finished, Live, Registration};
use epilogue_scope::{CleanupResult, How};
use tokio::task::AbortHandle;

use crate::adopted;
use crate::enclosing::enclosing_scopes;
use crate::entry::{About, Entries, Entry, Kind, lazy};
use crate::left::Left;
use crate::lock::{Guard, Lock};
use crate::stack::{AsyncDeferred, ScopeClosed};
use crate::sync::{AtomicBool, Ordering};

/// What everybody shares who may register on a scope or pay it.
pub(crate) struct Shared {
    owed: Lock<Owed>,
    live: Live,
    /// Somebody else may register: there is a handle, or there was one.
    reachable: AtomicBool,
    id: u64,
    /// The scopes that it was entered in.
    around: Vec<u64>,
    /// It was handed what others owed.
    adopts: AtomicBool,
    /// Somebody keeps something beside it, by its number.
    known: AtomicBool,
    /// There where it has had a task.
    left: OnceLock<Arc<Left>>,
}

#[derive(Default)]
struct Owed {
    entries: Entries,
    /// Fixed when the body ends: a scope that is cancelled while it pays did not end so.
    how: Option<How>,
    closed: bool,
    /// Who may pay: 0 for the owner, else a job of the lane.
    payer: u64,
    /// A cleanup is running.
    paying: bool,
}

impl Shared {
    pub(crate) fn new(live: Live) -> Shared {
        let (owed, reachable) = (Lock::new(Owed::default()), AtomicBool::new(false));
        Shared {
            owed,
            live,
            reachable,
            id: fresh_scope_id(),
            around: enclosing_scopes(),
            adopts: AtomicBool::new(false),
            known: AtomicBool::new(false),
            left: OnceLock::new(),
        }
    }

    /// A number that no other scope of this process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The same for somebody who keeps something beside it.
    pub(crate) fn known_by(&self) -> u64 {
        // Relaxed: whoever moves what it owes has the scope, as who asks for this.
        self.known.store(true, Ordering::Relaxed);
        self.id
    }

    /// The scopes that it was entered in, and itself.
    pub(crate) fn with_around(&self) -> Vec<u64> {
        self.around.iter().copied().chain([self.id]).collect()
    }

    #[inline]
    pub(crate) fn push<F, Fut>(
        &self,
        cleanup: F,
        kind: Kind,
        place: &'static Location<'static>,
    ) -> Result<AsyncDeferred, ScopeClosed>
    where
        F: FnOnce(How) -> Fut + Send + 'static,
        Fut: Future<Output: CleanupResult> + Send + 'static,
    {
        let registration = Registration::new("async scope", place);
        let entry = lazy(About { registration, place, kind, id: next_id() }, cleanup);
        // A cleanup that is refused is dropped here, on record as one that shall not run.
        self.put(entry).map_err(|(mut entry, closed)| {
            entry.as_mut().about().registration.finish(Finished::Disarmed);
            closed
        })
    }

    /// The newest cleanup above `depth`. Asked for the very last one, with none left, it closes: what
    /// came later would never run.
    pub(crate) fn pop(&self, depth: usize, payer: u64) -> Option<Entry> {
        let mut owed = self.lock();
        if owed.payer != payer {
            return None;
        }
        if owed.entries.len() <= depth {
            owed.closed |= depth == 0;
            return None;
        }
        let mut entry = owed.entries.pop()?;
        owed.paying = true;
        drop(owed);
        self.live.paid(entry.as_mut().about().id);
        Some(entry)
    }

    /// Takes everything and closes the stack, if nobody else can reach it; else takes nothing.
    #[inline]
    pub(crate) fn take_all_unless_shared(&self) -> Entries {
        // Relaxed: a handle is made by whoever has the scope, before its body has ended.
        if self.reachable.load(Ordering::Relaxed) {
            return Entries::new();
        }
        let mut owed = self.lock();
        owed.closed = true;
        std::mem::take(&mut owed.entries)
    }

    /// The cleanup that was popped has come to its end.
    #[inline]
    pub(crate) fn paid_one(&self) {
        self.lock().paying = false;
    }

    /// Makes somebody else the payer, who alone gets anything from now on; not in the middle of a cleanup,
    /// because the next one waits for that.
    pub(crate) fn take_over(&self, payer: u64) -> bool {
        let mut owed = self.lock();
        if !owed.paying {
            owed.payer = payer;
        }
        !owed.paying
    }

    pub(crate) fn make_reachable(&self) {
        self.reachable.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn paid(&self, id: u64) {
        self.live.paid(id);
    }

    /// Puts back a cleanup that was cut while it ran.
    pub(crate) fn put_back(&self, mut entry: Entry) {
        let about = entry.as_mut().about();
        self.live.owes(about.id, about.place);
        let mut owed = self.lock();
        owed.paying = false;
        owed.entries.push(entry);
    }

    /// Takes a cleanup out, wherever it is.
    pub(crate) fn take(&self, deferred: AsyncDeferred) -> Option<Entry> {
        let mut owed = self.lock();
        let at = owed.entries.iter_mut().rposition(|entry| entry.as_mut().about().id == deferred.0)?;
        let entry = owed.entries.remove(at);
        drop(owed);
        self.live.paid(deferred.0);
        Some(entry)
    }

    /// Whether nothing can be registered any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Puts a cleanup on top.
    #[inline]
    fn put(&self, mut entry: Entry) -> Result<AsyncDeferred, (Entry, ScopeClosed)> {
        let about = entry.as_mut().about();
        let (id, place) = (about.id, about.place);
        let mut owed = self.lock();
        if owed.closed {
            drop(owed);
            return Err((entry, ScopeClosed {}));
        }
        owed.entries.push(entry);
        drop(owed);
        self.live.owes(id, place);
        Ok(AsyncDeferred(id))
    }

    pub(crate) fn disarm(&self, deferred: AsyncDeferred) -> bool {
        let Some(mut entry) = self.take(deferred) else { return false };
        entry.as_mut().about().registration.finish(Finished::Disarmed);
        true
    }

    /// Moves everything pending on top of what another stack owes, or nothing.
    pub(crate) fn move_to(&self, other: &Shared) -> Result<(), ScopeClosed> {
        if std::ptr::eq(self, other) {
            return Ok(());
        }
        let mut moved = Vec::new();
        self.with_both(other, |from, to| {
            if to.closed {
                return Err(ScopeClosed {});
            }
            if !from.entries.is_empty() {
                // Before it is there: what comes after it is within it.
                other.adopts.store(true, Ordering::Relaxed);
                adopted::adopt(self.id, self.known.load(Ordering::Relaxed), other.id);
            }
            for mut entry in from.entries.drain(..) {
                let about = entry.as_mut().about();
                moved.push((about.id, about.place));
                to.entries.push(entry);
            }
            Ok(())
        })?;
        self.live.paid_all();
        moved.into_iter().for_each(|(id, place)| other.live.owes(id, place));
        Ok(())
    }

    /// Moves one of them on top of what another stack owes, or leaves it where it is.
    pub(crate) fn move_one_to(&self, deferred: AsyncDeferred, other: &Shared) -> Result<(), ScopeClosed> {
        if std::ptr::eq(self, other) {
            return Ok(());
        }
        let place = self.with_both(other, |from, to| {
            let at = from.entries.iter_mut().rposition(|entry| entry.as_mut().about().id == deferred.0);
            let (false, Some(at)) = (to.closed, at) else { return Err(ScopeClosed {}) };
            let mut entry = from.entries.remove(at);
            let place = entry.as_mut().about().place;
            to.entries.push(entry);
            Ok(place)
        })?;
        self.live.paid(deferred.0);
        other.live.owes(deferred.0, place);
        Ok(())
    }

    /// Holds both at once, always in the same order.
    fn with_both<T>(&self, other: &Shared, body: impl FnOnce(&mut Owed, &mut Owed) -> T) -> T {
        if std::ptr::from_ref(self).addr() < std::ptr::from_ref(other).addr() {
            let (mut mine, mut theirs) = (self.lock(), other.lock());
            body(&mut mine, &mut theirs)
        } else {
            let (mut theirs, mut mine) = (other.lock(), self.lock());
            body(&mut mine, &mut theirs)
        }
    }

    /// The owner is gone. With nothing owed it closes; else how the body ended, for whoever pays.
    pub(crate) fn leave(&self) -> Option<How> {
        let mut owed = self.lock();
        if owed.entries.is_empty() {
            owed.closed = true;
            return None;
        }
        Some(*owed.how.get_or_insert(How::Cancelled))
    }

    /// How many are pending.
    pub(crate) fn pending(&self) -> usize {
        self.lock().entries.len()
    }

    /// How the body ended, for whoever pays.
    pub(crate) fn how(&self) -> How {
        self.lock().how.unwrap_or(How::Cancelled)
    }

    pub(crate) fn tasks(&self) -> Vec<AbortHandle> {
        let mut owed = self.lock();
        owed.entries.iter_mut().filter_map(|entry| entry.as_mut().about().kind.abort.clone()).collect()
    }

    pub(crate) fn end(&self, how: How) {
        self.lock().how = Some(how);
    }

    /// For a task that is spawned on it.
    pub(crate) fn left_of_tasks(&self) -> Arc<Left> {
        Arc::clone(self.left.get_or_init(Arc::default))
    }

    /// Whoever pays is done, for now or for good.
    #[inline]
    pub(crate) fn abort_what_is_left(&self) {
        if let Some(left) = self.left.get() {
            left.abort_now();
        }
    }

    /// The places of what is pending, for the report of what could not be run.
    pub(crate) fn places(&self) -> Vec<String> {
        let places: Vec<_> =
            self.lock().entries.iter_mut().rev().map(|entry| entry.as_mut().about().place).collect();
        places.into_iter().map(|place| Place(place).to_string()).collect()
    }

    #[inline]
    fn lock(&self) -> Guard<'_, Owed> {
        self.owed.lock()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Relaxed: whoever drops the last of it has seen what the others did with it.
        if self.adopts.load(Ordering::Relaxed) {
            adopted::forget(self.id);
        }
    }
}

/// Of no other cleanup of this process that is pending: it may be moved from scope to scope. Counted by
/// each thread in a block of its own, so that registering shares nothing.
#[inline]
fn next_id() -> u64 {
    const BLOCK: u64 = 1 << 12;
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    let next = NEXT.get();
    let id = if next.is_multiple_of(BLOCK) { BLOCKS.fetch_add(BLOCK, Ordering::Relaxed) } else { next };
    NEXT.set(id + 1);
    id
}

#[cfg(all(test, epilogue_loom))]
mod loom_tests {
    use std::task::{Context, Poll, Waker};

    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::pay::{IntoReport, Pay};

    /// Pays everything; the cleanups here never wait.
    fn pay(shared: &Shared) {
        let mut pay = std::pin::pin!(Pay::down(shared, 0, 0, IntoReport(How::Returned)));
        let polled = pay.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(()));
    }

    fn owe(shared: &Shared, ran: &Arc<AtomicUsize>) -> bool {
        let ran = ran.clone();
        let cleanup = move |_| async move {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        shared.push(cleanup, Kind::default(), Location::caller()).is_ok()
    }

    #[test]
    fn what_was_taken_on_is_paid_and_what_came_too_late_is_refused() {
        crate::sync::model(|| {
            let shared = Arc::new(Shared::new(Live::default()));
            let ran = Arc::new(AtomicUsize::new(0));
            assert!(owe(&shared, &ran));
            let other = {
                let (shared, ran) = (shared.clone(), ran.clone());
                loom::thread::spawn(move || owe(&shared, &ran))
            };
            pay(&shared);
            let taken = other.join().unwrap();
            assert_eq!(ran.load(Ordering::Relaxed), 1 + usize::from(taken));
            assert!(!owe(&shared, &ran), "it is closed");
        });
    }

    #[test]
    fn two_payers_pay_each_cleanup_once() {
        crate::sync::model(|| {
            let shared = Arc::new(Shared::new(Live::default()));
            let ran = Arc::new(AtomicUsize::new(0));
            assert!(owe(&shared, &ran) && owe(&shared, &ran));
            let other = {
                let shared = shared.clone();
                loom::thread::spawn(move || pay(&shared))
            };
            pay(&shared);
            other.join().unwrap();
            assert_eq!(ran.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn who_takes_over_alone_pays_from_then_on() {
        crate::sync::model(|| {
            let shared = Arc::new(Shared::new(Live::default()));
            let ran = Arc::new(AtomicUsize::new(0));
            assert!(owe(&shared, &ran) && owe(&shared, &ran));
            let former = {
                let shared = shared.clone();
                loom::thread::spawn(move || pay(&shared))
            };
            // Not while a cleanup is running: the next one waits for that.
            while !shared.take_over(7) {
                loom::thread::yield_now();
            }
            let before = ran.load(Ordering::Relaxed);
            let left = shared.pending();
            assert_eq!(before + left, 2);
            former.join().unwrap();
            assert_eq!(shared.pending(), left, "the former payer gets nothing any more");
        });
    }
}
