//! The panic chain: which panics overtook which, oldest first, kept beside the unwinder.
//!
//! Rust carries one payload while it unwinds. What a cleanup raises meanwhile is kept in a
//! thread-local list until a boundary collects it; what a boundary raises again leaves its older
//! links in a second list, filed under the address of the payload box, where the next boundary
//! finds them. Neither a panic hook nor a wrapper around foreign payloads is needed, so
//! `downcast` keeps working for everybody else.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;

use crate::report;
use crate::task;

/// What a panic carries, as [`std::panic::catch_unwind`] returns it.
pub type Payload = Box<dyn Any + Send>;

/// The text of a panic payload: the message of `panic!`, the name of a task exit, or a
/// placeholder for values of other types.
///
/// # Examples
///
/// ```
/// let payload = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new("no ink"))).unwrap_err();
/// assert_eq!(epilogue_scope::describe(&*payload), "no ink");
/// ```
pub fn describe(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else if task::is_exit(payload) {
        "task exit".to_owned()
    } else {
        "a panic whose payload is not text".to_owned()
    }
}

/// The panics in flight at a boundary, oldest first; the last one is current.
///
/// Empty means that nothing is in flight. A chain allocates only once a panic is in flight.
#[derive(Default)]
pub struct Chain {
    links: Vec<Payload>,
}

impl Chain {
    /// True when no panic is in flight.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The current panic: the newest one. `None` when nothing is in flight, or when the current
    /// link is a [task exit](crate::task::exit_task), which is not a panic.
    pub fn current(&self) -> Option<&Payload> {
        self.links.last().filter(|link| !task::is_exit(&***link))
    }

    /// True when the task is being exited, with no newer panic on top.
    pub fn exits_task(&self) -> bool {
        self.links.last().is_some_and(|link| task::is_exit(&**link))
    }

    /// Every link, oldest first.
    pub fn links(&self) -> &[Payload] {
        &self.links
    }

    /// Takes the current panic and drops those it had overtaken. A task exit below it stays: Go's
    /// "Goexit resumes".
    pub(crate) fn recover(&mut self) -> Option<Payload> {
        self.current()?;
        let recovered = self.links.pop();
        while self.links.last().is_some_and(|link| !task::is_exit(&**link)) {
            self.links.pop();
        }
        if let Some(exit) = self.links.iter().rposition(|link| task::is_exit(&**link)) {
            self.links.drain(..exit);
        }
        recovered
    }

    pub(crate) fn append(&mut self, newer: Chain) {
        self.links.extend(newer.links);
    }

    /// Raises the newest link and files the older ones for the next boundary.
    pub(crate) fn raise(mut self, mark: Mark) -> ! {
        truncate_history(mark);
        let Some(newest) = self.links.pop() else {
            unreachable!("a chain is raised only when a panic is in flight")
        };
        resume_unwind(file_history(newest, self.links))
    }
}

/// How long the two thread-local lists were when a boundary was entered. What lies below belongs
/// to outer boundaries: a freed box's address can be used again, so a lookup must not reach there.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    overtaking: usize,
    history: usize,
}

impl Mark {
    pub(crate) fn here() -> Mark {
        LENGTHS.get()
    }

    /// The chain of a payload that was just caught at this mark.
    pub(crate) fn chain_of(self, caught: Payload) -> Chain {
        let (older, caught) = take_history(caught, self);
        let mut links = older;
        links.push(caught);
        links.append(&mut take_overtaking(self));
        Chain { links }
    }

    /// After a normal return: panics that a foreign `catch_unwind` left behind belong to nobody
    /// any more, so they are reported.
    pub(crate) fn settle(self) {
        let now = LENGTHS.get();
        if now.overtaking != self.overtaking {
            report_orphans(take_overtaking(self));
        }
        if now.history != self.history {
            truncate_history(self);
        }
    }
}

/// Keeps a panic that escaped a cleanup while the thread was unwinding already.
#[cold]
#[inline(never)]
pub(crate) fn keep_overtaking(payload: Payload) {
    let mut payload = Some(payload);
    let kept = LISTS.try_with(|lists| {
        if let Some(payload) = payload.take() {
            lists.overtaking.borrow_mut().push(payload);
        }
        lists.note_lengths();
    });
    if kept.is_err() {
        // The thread is being torn down: no boundary can follow.
        report_orphans(payload.into_iter().collect());
    }
}

thread_local! {
    // Read at every boundary: no destructor, so no registration check on the good path.
    static LENGTHS: Cell<Mark> = const { Cell::new(Mark { overtaking: 0, history: 0 }) };
    static LISTS: Lists = const { Lists {
        overtaking: RefCell::new(Vec::new()),
        history: RefCell::new(Vec::new()),
    } };
}

struct Lists {
    overtaking: RefCell<Vec<Payload>>,
    history: RefCell<Vec<Filed>>,
}

struct Filed {
    address: usize,
    older: Vec<Payload>,
}

impl Lists {
    fn note_lengths(&self) {
        LENGTHS
            .set(Mark { overtaking: self.overtaking.borrow().len(), history: self.history.borrow().len() });
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        report_orphans(std::mem::take(self.overtaking.get_mut()));
    }
}

/// A payload of size zero has no address of its own, so it travels in this box while it has a
/// history.
struct Carried(Payload, #[allow(dead_code, reason = "gives the box an address")] u8);

fn address(payload: &Payload) -> usize {
    std::ptr::from_ref::<dyn Any + Send>(&**payload).cast::<u8>().addr()
}

fn take_overtaking(mark: Mark) -> Vec<Payload> {
    if LENGTHS.get().overtaking == mark.overtaking {
        return Vec::new();
    }
    LISTS
        .try_with(|lists| {
            let taken = {
                let mut list = lists.overtaking.borrow_mut();
                let from = mark.overtaking.min(list.len());
                list.split_off(from)
            };
            lists.note_lengths();
            taken
        })
        .unwrap_or_default()
}

fn take_history(caught: Payload, mark: Mark) -> (Vec<Payload>, Payload) {
    if LENGTHS.get().history == mark.history {
        return (Vec::new(), caught);
    }
    let wanted = address(&caught);
    let older = LISTS
        .try_with(|lists| {
            let found = {
                let mut list = lists.history.borrow_mut();
                let from = mark.history.min(list.len());
                let mut filed = list.split_off(from);
                filed.iter().rposition(|entry| entry.address == wanted).map(|at| filed.swap_remove(at).older)
            };
            lists.note_lengths();
            found.unwrap_or_default()
        })
        .unwrap_or_default();
    match caught.downcast::<Carried>() {
        Ok(carried) => (older, carried.0),
        Err(caught) => (older, caught),
    }
}

fn file_history(newest: Payload, older: Vec<Payload>) -> Payload {
    if older.is_empty() {
        return newest;
    }
    let newest = if size_of_val(&*newest) == 0 { Box::new(Carried(newest, 0)) } else { newest };
    let address = address(&newest);
    // Where the thread is being torn down, the older links go down with it.
    let _ = LISTS.try_with(|lists| {
        lists.history.borrow_mut().push(Filed { address, older });
        lists.note_lengths();
    });
    newest
}

fn truncate_history(mark: Mark) {
    if LENGTHS.get().history == mark.history {
        return;
    }
    let _ = LISTS.try_with(|lists| {
        let stale = {
            let mut list = lists.history.borrow_mut();
            let from = mark.history.min(list.len());
            list.split_off(from)
        };
        lists.note_lengths();
        drop(stale);
    });
}

#[cold]
fn report_orphans(orphans: Vec<Payload>) {
    for orphan in orphans {
        report::panicked("a cleanup on an unwinding thread", &*orphan);
    }
}
