//! One link of a chain, and how a payload reads.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::ops::Deref;

use super::{Payload, is_exit};
use crate::report::with_sources;

/// One panic, or task exit, of a [`Chain`](crate::Chain). Dereferences to the payload's value.
pub struct Link {
    payload: Payload,
    /// Recovered by the cleanup that raised this one, oldest first.
    recovered: Vec<Note>,
}

/// A panic that was recovered, as its successor remembers it. The payload itself belongs to
/// whoever recovered it.
pub(super) struct Note {
    address: usize,
    text: Cow<'static, str>,
}

impl Link {
    pub(super) fn new(payload: Payload) -> Link {
        Link { payload, recovered: Vec::new() }
    }

    /// The value that was raised.
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// The value that was raised, to keep.
    pub fn into_payload(self) -> Payload {
        self.payload
    }

    /// Whether this link is a [task exit](crate::task::exit_task) and not a panic.
    pub fn exits_task(&self) -> bool {
        is_exit(&*self.payload)
    }

    /// The text of the payload; see [`describe`].
    pub fn describe(&self) -> String {
        describe(&*self.payload)
    }

    pub(super) fn address(&self) -> usize {
        address(&self.payload)
    }

    /// Whether the payload has an address of its own: one of size zero has none.
    pub(super) fn has_address(&self) -> bool {
        size_of_val(&*self.payload) > 0
    }

    pub(super) fn split(self) -> (Payload, Vec<Note>) {
        (self.payload, self.recovered)
    }

    pub(super) fn join(payload: Payload, recovered: Vec<Note>) -> Link {
        Link { payload, recovered }
    }

    pub(super) fn overtook(&mut self, mut recovered: Vec<Note>) {
        recovered.append(&mut self.recovered);
        self.recovered = recovered;
    }

    pub(super) fn note_into(self, notes: &mut Vec<Note>) -> Payload {
        let (address, known) = (self.address(), self.has_address());
        notes.extend(self.recovered);
        // Recovered and raised again, once or many times over, it is one note.
        if !(known && notes.last().is_some_and(|last| last.address == address)) {
            notes.push(Note { address, text: text(&*self.payload) });
        }
        self.payload
    }

    /// `panic: text`, after a line for each panic that was recovered before this one was raised.
    pub(super) fn lines(&self) -> Vec<String> {
        let again =
            self.has_address() && self.recovered.last().is_some_and(|last| last.address == self.address());
        let before = &self.recovered[..self.recovered.len() - usize::from(again)];
        let mut lines: Vec<_> =
            before.iter().map(|note| format!("panic: {} [recovered]", indented(&note.text))).collect();
        let text = indented(&text(&*self.payload));
        lines.push(format!("panic: {text}{}", if again { " [recovered, repanicked]" } else { "" }));
        lines
    }
}

impl Deref for Link {
    type Target = dyn Any + Send;

    fn deref(&self) -> &Self::Target {
        &*self.payload
    }
}

pub(super) fn address(payload: &Payload) -> usize {
    std::ptr::from_ref::<dyn Any + Send>(&**payload).cast::<u8>().addr()
}

/// The text of a panic payload: the message of `panic!`, an error with its sources, a number, the
/// name of a task exit, or a placeholder for values of other types.
///
/// An error is read by its own `Display`. If that panics, the text says so: it is read where
/// nothing else is in flight, so the panic ends here.
///
/// # Examples
///
/// ```
/// let payload = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new("no ink"))).unwrap_err();
/// assert_eq!(epilogue_scope::describe(&*payload), "no ink");
/// ```
pub fn describe(payload: &(dyn Any + Send)) -> String {
    text(payload).into_owned()
}

fn text(payload: &(dyn Any + Send)) -> Cow<'static, str> {
    macro_rules! number {
        ($($kind:ty)*) => { $(
            if let Some(number) = payload.downcast_ref::<$kind>() {
                return Cow::Owned(number.to_string());
            }
        )* };
    }
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        return Cow::Borrowed(text);
    }
    if let Some(text) = payload.downcast_ref::<String>() {
        return Cow::Owned(text.clone());
    }
    if is_exit(payload) {
        return Cow::Borrowed("task exit");
    }
    if let Some(error) = payload.downcast_ref::<Box<dyn Error + Send + Sync>>() {
        return Cow::Owned(with_sources(&**error));
    }
    if let Some(error) = payload.downcast_ref::<std::io::Error>() {
        return Cow::Owned(with_sources(error));
    }
    number!(i32 u32 i64 u64 usize isize u8 i8 u16 i16 u128 i128 f64 f32 bool char);
    Cow::Borrowed("a panic whose payload is not text")
}

/// Go prints a line break in a message with a tab after it, so that a chain stays readable.
fn indented(text: &str) -> String {
    text.replace('\n', "\n\t")
}
