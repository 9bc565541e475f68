//! A cleanup that is being run.

use std::pin::Pin;

use crate::entry::{Cleanup, Entry};
use crate::stack::Shared;

/// Holds the cleanup while it runs; dropped before its end, it puts it back.
pub(crate) struct Begun<'a> {
    shared: &'a Shared,
    entry: Option<Entry>,
}

impl<'a> Begun<'a> {
    pub(crate) fn new(shared: &'a Shared, mut entry: Entry) -> Begun<'a> {
        entry.begun = true;
        Begun { shared, entry: Some(entry) }
    }

    pub(crate) fn cleanup(&mut self) -> Option<Pin<&mut (dyn Cleanup + 'static)>> {
        self.entry.as_mut().map(|entry| entry.cleanup.as_mut())
    }

    pub(crate) fn end(mut self) -> Option<Entry> {
        self.entry.take()
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.put_back(entry);
        }
    }
}
