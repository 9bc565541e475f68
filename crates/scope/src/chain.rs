//! The panic chain: which panics overtook which, oldest first, kept beside the unwinder.
//!
//! Rust carries one payload while it unwinds. What a cleanup raises meanwhile is kept in a
//! thread-local list until a boundary collects it; what a boundary raises again leaves its older
//! links in a second list, filed under the address of the payload box, where the next boundary
//! finds them. Neither a panic hook nor a wrapper around foreign payloads is needed, so
//! `downcast` keeps working for everybody else.

mod link;
mod lists;

use std::any::Any;
use std::fmt;
use std::panic::resume_unwind;

use crate::task;

pub use link::{Link, describe};
pub(crate) use lists::{Mark, keep_late, keep_overtaking};

/// What a panic carries, as [`std::panic::catch_unwind`] returns it.
pub type Payload = Box<dyn Any + Send>;

/// The panics in flight at a boundary, oldest first; the last one is current.
///
/// Empty means that nothing is in flight. A chain allocates only once a panic is in flight.
///
/// `Display` prints the whole chain as Go does: one line a link, oldest first, tabs before the
/// later ones, and whether a link had been recovered, or recovered and raised again.
#[derive(Default)]
pub struct Chain {
    links: Vec<Link>,
    /// What the cleanup that is running has recovered: it shows in the chain if that cleanup
    /// panics in turn, and is forgotten otherwise.
    recovered: Vec<link::Note>,
}

impl Chain {
    pub(crate) const fn new() -> Chain {
        Chain { links: Vec::new(), recovered: Vec::new() }
    }

    /// True when nothing is in flight.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// The current panic: the newest one. `None` when nothing is in flight, or when the current
    /// link is a [task exit](crate::task::exit_task), which is not a panic.
    #[inline]
    pub fn current(&self) -> Option<&Link> {
        self.links.last().filter(|link| !link.exits_task())
    }

    /// True when the task is being exited, with no newer panic on top.
    #[inline]
    pub fn exits_task(&self) -> bool {
        self.links.last().is_some_and(Link::exits_task)
    }

    /// Every link, oldest first.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The payload of the newest link, a task exit included; the older links are dropped. `None`
    /// when nothing is in flight.
    pub fn into_newest(mut self) -> Option<Payload> {
        self.links.pop().map(Link::into_payload)
    }

    /// Takes the current panic and drops those it had overtaken. A task exit below it stays: Go's
    /// "Goexit resumes".
    pub(crate) fn recover(&mut self) -> Option<Payload> {
        self.current()?;
        let recovered = self.links.pop()?;
        while self.links.last().is_some_and(|link| !link.exits_task()) {
            self.links.pop();
        }
        if let Some(exit) = self.links.iter().rposition(Link::exits_task) {
            self.links.drain(..exit);
        }
        let payload = recovered.note_into(&mut self.recovered);
        Some(payload)
    }

    /// The cleanup that was running is done: what it recovered is settled.
    #[inline]
    pub(crate) fn forget_recovered(&mut self) {
        if !self.recovered.is_empty() {
            self.recovered.clear();
        }
    }

    /// Puts the panics of a cleanup on top, with what that cleanup had recovered before.
    #[cold]
    pub(crate) fn append(&mut self, mut newer: Chain) {
        if let Some(first) = newer.links.first_mut() {
            first.overtook(std::mem::take(&mut self.recovered));
        }
        self.links.append(&mut newer.links);
    }

    /// Raises the newest link and files the older ones for the next boundary.
    #[cold]
    pub(crate) fn raise(self, mark: Mark) -> ! {
        resume_unwind(self.into_raised(mark))
    }

    /// The newest link, to be raised at once, with the older ones filed for the next boundary.
    #[cold]
    pub(crate) fn into_raised(mut self, mark: Mark) -> Payload {
        mark.truncate_history();
        match self.links.pop() {
            Some(newest) => lists::file(newest, self.links),
            None => unreachable!("a chain is raised only when something is in flight"),
        }
    }

    /// Gives every link to the boundary around, because something else is in flight there already.
    #[cold]
    pub(crate) fn overtake(mut self, mark: Mark) {
        mark.truncate_history();
        let Some(newest) = self.links.pop() else { return };
        keep_overtaking(lists::file(newest, self.links));
    }

    /// The same where the boundary is of the very function that is left.
    #[cold]
    pub(crate) fn keep_late(mut self, mark: Mark) {
        mark.truncate_history();
        let Some(newest) = self.links.pop() else { return };
        keep_late(lists::file(newest, self.links));
    }

    fn of(links: Vec<Link>) -> Chain {
        Chain { links, recovered: Vec::new() }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.links.iter().flat_map(Link::lines).enumerate();
        lines.try_for_each(|(at, line)| {
            if at > 0 {
                f.write_str("\n\t")?;
            }
            f.write_str(&line)
        })
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.links.iter().map(Link::describe)).finish()
    }
}

/// Whether a caught payload is a task exit; here so that the submodules need not know where.
fn is_exit(payload: &(dyn Any + Send)) -> bool {
    task::is_exit(payload)
}
