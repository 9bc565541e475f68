//! A stack of cleanups of different types, stored by value: no allocation for the first few, one
//! for every doubling after that.
//!
//! Each entry is a [`Header`] with the closure behind it. Entries are found from the top downwards,
//! by offsets, so a stack that holds entries may be moved.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
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

/// The words before the first allocation: four cleanups with two captured words each.
const INLINE_WORDS: usize = 28;
const FIRST_CHUNK_WORDS: usize = 128;
const LARGEST_CHUNK_WORDS: usize = 1 << 13;

type Word = MaybeUninit<usize>;

/// A stack of `FnOnce(&mut Cx)`; the closures may borrow for `'a`.
///
/// Dropped with entries on it, it drops their closures and runs none.
pub(crate) struct Stack<'a, Cx> {
    inline: UnsafeCell<[Word; INLINE_WORDS]>,
    chunks: UnsafeCell<Vec<Chunk>>,
    top: Cell<Pos>,
    free: Cell<Pos>,
    length: Cell<u32>,
    pushed: Cell<u32>,
    // Owns closures that borrow for 'a and take a `&mut Cx`. Invariant: what is pushed through a
    // shared reference must live as long as the owner believes.
    _owns: PhantomData<Cell<Owned<'a, Cx>>>,
}

type Owned<'a, Cx> = Box<dyn FnOnce(&mut Cx) + 'a>;

/// A chunk, and a word in it; chunk 0 is the inline one. In one word of the machine, which is written
/// and read as a whole: a load that spans two recent stores waits for both.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pos(u64);

impl Pos {
    /// Below the lowest entry.
    const NONE: Pos = Pos(u64::MAX);
    const START: Pos = Pos(0);

    #[inline(always)]
    fn new(chunk: usize, word: usize) -> Pos {
        Pos((chunk as u64) << 32 | word as u64)
    }

    #[inline(always)]
    fn chunk(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline(always)]
    fn word(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

struct Chunk {
    words: NonNull<Word>,
    length: usize,
}

struct Header {
    ops: &'static Ops,
    below: Pos,
    place: &'static Location<'static>,
    registration: Registration,
    id: u32,
    held: Held,
}

/// What an entry still holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Closure,
    /// Taken out of the middle, and perhaps being dropped where it lies.
    Taken,
    /// Nothing but the header.
    Nothing,
}

const HEADER_WORDS: usize = size_of::<Header>().div_ceil(size_of::<usize>());
const _: () = assert!(align_of::<Header>() <= align_of::<usize>());

/// What can be done with a closure whose type is forgotten.
struct Ops {
    /// Moves the closure out and runs it with the `&mut Cx` behind the second pointer.
    run: unsafe fn(NonNull<u8>, *mut ()) -> Option<BoxError>,
    /// Drops the closure in place.
    drop: unsafe fn(NonNull<u8>),
}

/// A cleanup that was just popped. Its closure still lies in the stack.
pub(crate) struct Top {
    ops: &'static Ops,
    data: NonNull<u8>,
    pub(crate) place: &'static Location<'static>,
    pub(crate) registration: Registration,
    pub(crate) id: u32,
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
    ) -> u32
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
    fn put<F>(&self, cleanup: F, place: &'static Location<'static>, registration: Registration) -> u32
    where
        F: FnOnce(&mut Cx) -> Option<BoxError> + 'a,
    {
        let (at, header) = self.reserve(HEADER_WORDS + size_of::<F>().div_ceil(size_of::<usize>()));
        let id = self.pushed.get();
        self.pushed.set(id.wrapping_add(1));
        let ops = &Ops { run: run::<F, Cx>, drop: drop_in_place::<F> };
        let below = self.top.get();
        // SAFETY: `reserve` gave that many words that nothing else uses, aligned for a `usize`, which
        // is enough for both values.
        unsafe {
            header.cast().write(Header { ops, below, place, registration, id, held: Held::Closure });
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
            if header.held != Held::Closure {
                continue;
            }
            self.length.set(self.length.get() - 1);
            let Header { ops, place, registration, id, .. } = header;
            // SAFETY: within the words that `push` reserved for the entry.
            let data = unsafe { words.add(HEADER_WORDS).cast() };
            return Some(Top { ops, data, place, registration, id });
        }
    }

    /// Takes out the cleanup with this id, wherever it is. `None` when it is not pending here.
    pub(crate) fn take(&self, id: u32) -> Option<Top> {
        let mut next = self.top.get();
        while next != Pos::NONE {
            let at = next;
            let words = self.words(at);
            // SAFETY: `at` is the place of a header that `push` wrote and nobody has popped. No
            // other reference to it exists: the stack is used by one thread, and none is handed out.
            let header = unsafe { words.cast::<Header>().as_mut() };
            if header.id == id && header.held == Held::Closure {
                header.held = Held::Taken;
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
    pub(crate) fn give_back(&self, id: u32) {
        let mut next = self.top.get();
        while next != Pos::NONE {
            // SAFETY: as in `take`.
            let header = unsafe { self.words(next).cast::<Header>().as_mut() };
            if header.id == id && header.held == Held::Taken {
                header.held = Held::Nothing;
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
            if header.held != Held::Nothing {
                return;
            }
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
        taken.pushed.set(self.pushed.get());
        taken
    }

    /// Finds room for so many words and marks it used.
    #[inline]
    fn reserve(&self, words: usize) -> (Pos, NonNull<Word>) {
        let at = self.free.get();
        let room = self.chunk_length(at.chunk()) - at.word();
        if words <= room {
            self.free.set(Pos::new(at.chunk(), at.word() + words));
            return (at, self.words(at));
        }
        self.grow(words)
    }

    #[cold]
    #[inline(never)]
    fn grow(&self, words: usize) -> (Pos, NonNull<Word>) {
        // SAFETY: the vector is touched only by this thread, within calls that do not overlap.
        let chunks = unsafe { &mut *self.chunks.get() };
        // Above the chunk in use there is at most one, kept empty by `release_above`.
        let in_use = self.free.get().chunk();
        if chunks.get(in_use).is_none_or(|spare| spare.length < words) {
            chunks.truncate(in_use);
            Stack::<Cx>::add_chunk(chunks, words);
        }
        let at = Pos::new(in_use + 1, 0);
        self.free.set(Pos::new(in_use + 1, words));
        (at, self.words(at))
    }

    fn add_chunk(chunks: &mut Vec<Chunk>, words: usize) {
        let last = chunks.last().map_or(FIRST_CHUNK_WORDS / 2, |chunk| chunk.length);
        chunks.push(Chunk::new((last * 2).min(LARGEST_CHUNK_WORDS).max(words)));
    }

    #[inline]
    fn chunk_length(&self, chunk: usize) -> usize {
        if chunk == 0 {
            return INLINE_WORDS;
        }
        // SAFETY: as in `grow`; chunk n is at index n - 1.
        unsafe { (&(*self.chunks.get()))[chunk - 1].length }
    }

    #[inline]
    fn words(&self, at: Pos) -> NonNull<Word> {
        let start = if at.chunk() == 0 {
            // SAFETY: a pointer into `self` is not null.
            unsafe { NonNull::new_unchecked(self.inline.get().cast::<Word>()) }
        } else {
            // SAFETY: as in `chunk_length`.
            unsafe { (&(*self.chunks.get()))[at.chunk() - 1].words }
        };
        // SAFETY: positions lie within their chunk.
        unsafe { start.add(at.word()) }
    }

    /// Frees the chunks above one that has entries again, but for one: a loop that pushes and pops
    /// at the edge must not allocate each time.
    #[inline]
    fn release_above(&mut self, chunk: usize) {
        let chunks = self.chunks.get_mut();
        if chunks.len() > chunk + 1 {
            chunks.truncate(chunk + 1);
        }
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

impl Chunk {
    fn new(length: usize) -> Chunk {
        let layout = Chunk::layout(length);
        // SAFETY: no chunk has zero words.
        let words = unsafe { alloc(layout) };
        let words = NonNull::new(words.cast()).unwrap_or_else(|| handle_alloc_error(layout));
        Chunk { words, length }
    }

    fn layout(length: usize) -> Layout {
        match Layout::array::<Word>(length) {
            Ok(layout) => layout,
            Err(_) => unreachable!("a closure is smaller than the address space"),
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`, and freed once.
        unsafe { dealloc(self.words.as_ptr().cast(), Chunk::layout(self.length)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn push(stack: &Stack<'_, ()>) -> u32 {
        let held = [7_u64; 4];
        stack.push(
            move |()| {
                std::hint::black_box(held);
                None
            },
            Location::caller(),
            Registration::default(),
        )
    }

    fn disarm(stack: &Stack<'_, ()>, id: u32) {
        drop(stack.take(id).unwrap());
        stack.give_back(id);
    }

    #[test]
    fn the_room_of_what_was_disarmed_is_used_again() {
        let mut stack = Stack::new();
        for _ in 0..1000 {
            let (one, two, three) = (push(&stack), push(&stack), push(&stack));
            disarm(&stack, two);
            disarm(&stack, one);
            assert_eq!(stack.len(), 1);
            disarm(&stack, three);
        }
        assert!(stack.free.get() == Pos::START && stack.top.get() == Pos::NONE);
        assert!(stack.chunks.get_mut().len() <= 1 && stack.pop().is_none());
    }

    #[test]
    fn what_is_still_being_dropped_keeps_its_room() {
        let stack = Stack::new();
        let (one, two) = (push(&stack), push(&stack));
        let top = stack.take(two).unwrap();
        // As the drop of what it holds could do.
        disarm(&stack, one);
        let before = stack.free.get();
        let three = push(&stack);
        assert!(stack.free.get() != before && stack.top.get() == before);
        drop(top);
        stack.give_back(two);
        disarm(&stack, three);
        assert!(stack.free.get() == Pos::START);
    }
}
