//! A stack of cleanups of different types, stored by value: no allocation for the first few, one
//! for every doubling after that.
//!
//! Each entry is a [`Header`] with the closure behind it. Entries are found from the top downwards,
//! by offsets, so a stack that holds entries may be moved.

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, align_of, size_of};
use std::panic::Location;
use std::ptr::NonNull;

use crate::boundary::raised_by;
use crate::chain::{Chain, Mark};
use crate::cleanup::BoxError;
use crate::pay::Raised;
use crate::record::Registration;

mod room;
#[cfg(test)]
mod tests;

use room::{Chunk, INLINE_WORDS, Pos, Word};

/// A stack of `FnOnce(&mut Cx)`; the closures may borrow for `'a`.
///
/// Dropped with entries on it, it drops their closures and runs none.
pub(crate) struct Stack<'a, Cx> {
    inline: UnsafeCell<[Word; INLINE_WORDS]>,
    chunks: UnsafeCell<Vec<Chunk>>,
    top: Cell<Pos>,
    free: Cell<Pos>,
    length: Cell<u32>,
    /// Entries that hold nothing any more, below others.
    empty: Cell<u32>,
    pushed: Cell<u64>,
    // Owns closures that borrow for 'a and take a `&mut Cx`. Invariant: what is pushed through a
    // shared reference must live as long as the owner believes.
    _owns: PhantomData<Cell<Owned<'a, Cx>>>,
}

type Owned<'a, Cx> = Box<dyn FnOnce(&mut Cx) + 'a>;

struct Header {
    ops: &'static Ops,
    below: Pos,
    place: &'static Location<'static>,
    registration: Registration,
    tag: Tag,
}

/// The id of an entry, and what it still holds, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag(u64);

impl Tag {
    const CLOSURE: u64 = 0;
    /// Taken out of the middle, and perhaps being dropped where it lies.
    const TAKEN: u64 = 1;
    /// Nothing but the header.
    const NOTHING: u64 = 2;

    #[inline(always)]
    fn new(id: u64, held: u64) -> Tag {
        Tag(id << 2 | held)
    }

    #[inline(always)]
    fn id(self) -> u64 {
        self.0 >> 2
    }

    #[inline(always)]
    fn held(self) -> u64 {
        self.0 & 3
    }
}

const HEADER_WORDS: usize = size_of::<Header>().div_ceil(size_of::<usize>());
const _: () = assert!(align_of::<Header>() <= align_of::<usize>());

/// The words of an entry with such a closure.
const fn words_of<F>() -> usize {
    HEADER_WORDS + size_of::<F>().div_ceil(size_of::<usize>())
}

/// What can be done with a closure whose type is forgotten.
struct Ops {
    /// Moves the closure out and runs it with the `&mut Cx` behind the second pointer.
    run: unsafe fn(NonNull<u8>, *mut ()) -> Option<BoxError>,
    /// Drops the closure in place.
    drop: unsafe fn(NonNull<u8>),
    /// The words of an entry with such a closure.
    words: usize,
}

/// A cleanup that was just popped. Its closure still lies in the stack.
pub(crate) struct Top {
    ops: &'static Ops,
    data: NonNull<u8>,
    pub(crate) place: &'static Location<'static>,
    pub(crate) registration: Registration,
    pub(crate) id: u64,
}

impl<'a, Cx> Stack<'a, Cx> {
    #[inline]
    pub(crate) const fn new() -> Self {
        Stack {
            inline: UnsafeCell::new([const { MaybeUninit::uninit() }; INLINE_WORDS]),
            chunks: UnsafeCell::new(Vec::new()),
            top: Cell::new(Pos::NONE),
            free: Cell::new(Pos::START),
            length: Cell::new(0),
            empty: Cell::new(0),
            pushed: Cell::new(0),
            _owns: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length.get() as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.length.get() == 0
    }

    /// Puts a cleanup on top. Returns its id.
    #[inline]
    pub(crate) fn push<F>(
        &self,
        cleanup: F,
        place: &'static Location<'static>,
        registration: Registration,
    ) -> u64
    where
        F: FnOnce(&mut Cx) -> Option<BoxError> + 'a,
    {
        if align_of::<F>() <= align_of::<usize>() {
            return self.put(cleanup, place, registration);
        }
        let boxed = Box::new(cleanup);
        self.put(move |cx: &mut Cx| boxed(cx), place, registration)
    }

    /// `F` is aligned no more strictly than the words of the stack.
    #[inline]
    fn put<F>(&self, cleanup: F, place: &'static Location<'static>, registration: Registration) -> u64
    where
        F: FnOnce(&mut Cx) -> Option<BoxError> + 'a,
    {
        let words = const { words_of::<F>() };
        let (at, header) = self.reserve(words);
        let id = self.pushed.get();
        self.pushed.set(id + 1);
        let ops = &Ops { run: run::<F, Cx>, drop: drop_in_place::<F>, words: const { words_of::<F>() } };
        let below = self.top.get();
        let tag = Tag::new(id, Tag::CLOSURE);
        // SAFETY: `reserve` gave that many words that nothing else uses, aligned for a `usize`, which
        // is enough for both values.
        unsafe {
            header.cast().write(Header { ops, below, place, registration, tag });
            header.add(HEADER_WORDS).cast::<F>().write(cleanup);
        }
        self.top.set(at);
        self.length.set(self.length.get() + 1);
        id
    }

    /// Takes the newest cleanup off. Its words are free from now on: run it or drop it before
    /// anything else is pushed.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Top> {
        loop {
            let at = self.top.get();
            if at == Pos::NONE {
                return None;
            }
            let words = self.words(at);
            // SAFETY: `top` is where `push` wrote a header, which is read once: afterwards `top` is
            // below it.
            let header = unsafe { words.cast::<Header>().read() };
            self.top.set(header.below);
            self.free.set(at);
            self.release_above(at.chunk());
            if header.tag.held() != Tag::CLOSURE {
                self.empty.set(self.empty.get() - u32::from(header.tag.held() == Tag::NOTHING));
                continue;
            }
            self.length.set(self.length.get() - 1);
            let Header { ops, place, registration, tag, .. } = header;
            // SAFETY: within the words that `push` reserved for the entry.
            let data = unsafe { words.add(HEADER_WORDS).cast() };
            return Some(Top { ops, data, place, registration, id: tag.id() });
        }
    }

    /// Takes out the cleanup with this id, wherever it is. `None` when it is not pending here.
    pub(crate) fn take(&self, id: u64) -> Option<Top> {
        let mut next = self.top.get();
        while next != Pos::NONE {
            let at = next;
            let words = self.words(at);
            // SAFETY: `at` is the place of a header that `push` wrote and nobody has popped. No
            // other reference to it exists: the stack is used by one thread, and none is handed out.
            let header = unsafe { words.cast::<Header>().as_mut() };
            if header.tag == Tag::new(id, Tag::CLOSURE) {
                header.tag = Tag::new(id, Tag::TAKEN);
                self.length.set(self.length.get() - 1);
                let registration = std::mem::take(&mut header.registration);
                // SAFETY: within the words that `push` reserved for the entry.
                let data = unsafe { words.add(HEADER_WORDS).cast() };
                return Some(Top { ops: header.ops, data, place: header.place, registration, id });
            }
            next = header.below;
        }
        None
    }

    /// Says of a cleanup that was taken out that its closure is gone from its place, and uses the room of
    /// all those again that nothing lies above.
    pub(crate) fn give_back(&self, id: u64) {
        let mut next = self.top.get();
        while next != Pos::NONE {
            // SAFETY: as in `take`.
            let header = unsafe { self.words(next).cast::<Header>().as_mut() };
            if header.tag == Tag::new(id, Tag::TAKEN) {
                header.tag = Tag::new(id, Tag::NOTHING);
                self.empty.set(self.empty.get() + 1);
                break;
            }
            next = header.below;
        }
        self.trim();
    }

    fn trim(&self) {
        let mut at = self.top.get();
        while at != Pos::NONE {
            // SAFETY: as in `take`.
            let header = unsafe { self.words(at).cast::<Header>().as_ref() };
            if header.tag.held() != Tag::NOTHING {
                return;
            }
            self.empty.set(self.empty.get() - 1);
            self.free.set(at);
            at = header.below;
            self.top.set(at);
        }
    }

    /// Moves everything to a stack of its own.
    pub(crate) fn take_all(&self) -> Self {
        let taken = Stack::new();
        // SAFETY: both are used by this thread alone, and no reference into them is alive: entries
        // lie in words, and a word may be copied as it is. They are forgotten here below.
        unsafe {
            taken.inline.get().copy_from_nonoverlapping(self.inline.get(), 1);
            std::ptr::swap(taken.chunks.get(), self.chunks.get());
        }
        taken.top.set(self.top.replace(Pos::NONE));
        taken.free.set(self.free.replace(Pos::START));
        taken.length.set(self.length.take());
        taken.empty.set(self.empty.take());
        taken.pushed.set(self.pushed.get());
        debug_assert!(taken.sound(), "a stack that was moved is as it was");
        taken
    }

    /// Whether the entries are where they say: as many closures as there are cleanups, each below the next.
    fn sound(&self) -> bool {
        let (mut closures, mut empty, mut at, mut above) = (0, 0, self.top.get(), self.free.get());
        while at != Pos::NONE {
            // SAFETY: as in `take`.
            let header = unsafe { self.words(at).cast::<Header>().as_ref() };
            closures += u32::from(header.tag.held() == Tag::CLOSURE);
            empty += u32::from(header.tag.held() == Tag::NOTHING);
            if (at.chunk(), at.word() + header.ops.words) > (above.chunk(), above.word()) {
                return false;
            }
            (above, at) = (at, header.below);
        }
        (closures, empty) == (self.length.get(), self.empty.get())
    }
}

impl<Cx> Drop for Stack<'_, Cx> {
    fn drop(&mut self) {
        if let Some(raised) = self.drop_all(|_| ()) {
            raised.raise_or_keep();
        }
    }
}

impl<Cx> Stack<'_, Cx> {
    /// Drops every closure and runs none; what they hold may panic then, and keeps none of the others
    /// from being dropped. Returns what was raised.
    pub(crate) fn drop_all(&mut self, mut note: impl FnMut(&mut Registration)) -> Option<Raised> {
        let mark = Mark::here();
        let mut all: Option<Chain> = None;
        while let Some(mut top) = self.pop() {
            note(&mut top.registration);
            if let Some(newer) = raised_by(|| drop(top)) {
                all.get_or_insert_default().append(newer);
            }
        }
        all.map(|chain| Raised::new(chain, mark))
    }
}

impl Top {
    /// Runs the cleanup.
    ///
    /// # Safety
    ///
    /// Nothing was pushed onto, or popped from, the stack since, and it was not moved; `cx` is
    /// what that stack's closures take.
    #[inline]
    pub(crate) unsafe fn run<Cx>(self, cx: &mut Cx) -> Option<BoxError> {
        let (run, data) = (self.ops.run, self.data);
        #[expect(
            clippy::disallowed_methods,
            reason = "`run` takes the closure; dropping it here would be twice"
        )]
        std::mem::forget(self);
        // SAFETY: by this function's contract the closure still lies there, and takes a `Cx`.
        unsafe { run(data, std::ptr::from_mut(cx).cast()) }
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // SAFETY: the closure still lies there: whoever pops drops or runs before pushing again.
        unsafe { (self.ops.drop)(self.data) }
    }
}

/// # Safety
///
/// `data` points to an `F` that is taken by this call, `cx` to a `Cx` that nobody else uses.
unsafe fn run<F, Cx>(data: NonNull<u8>, cx: *mut ()) -> Option<BoxError>
where
    F: FnOnce(&mut Cx) -> Option<BoxError>,
{
    // SAFETY: this function's contract.
    let (cleanup, cx) = unsafe { (data.cast::<F>().read(), &mut *cx.cast::<Cx>()) };
    cleanup(cx)
}

/// # Safety
///
/// `data` points to an `F` that nobody uses afterwards.
unsafe fn drop_in_place<F>(data: NonNull<u8>) {
    // SAFETY: this function's contract.
    unsafe { data.cast::<F>().drop_in_place() }
}
