//! Where the entries of a stack lie: words inline, then in chunks, used again when what was in them is gone.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::{Header, Stack, Tag};

/// The words before the first allocation: four cleanups with two captured words each.
pub(super) const INLINE_WORDS: usize = 28;
pub(super) const FIRST_CHUNK_WORDS: usize = 128;
const LARGEST_CHUNK_WORDS: usize = 1 << 13;

pub(super) type Word = MaybeUninit<usize>;

/// A chunk, and a word in it; chunk 0 is the inline one. In one word of the machine, which is written
/// and read as a whole: a load that spans two recent stores waits for both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Pos(u64);

impl Pos {
    /// Below the lowest entry.
    pub(super) const NONE: Pos = Pos(u64::MAX);
    pub(super) const START: Pos = Pos(0);

    #[inline(always)]
    pub(super) fn new(chunk: usize, word: usize) -> Pos {
        Pos((chunk as u64) << 32 | word as u64)
    }

    #[inline(always)]
    pub(super) fn chunk(self) -> usize {
        (self.0 >> 32) as usize
    }

    #[inline(always)]
    pub(super) fn word(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

pub(super) struct Chunk {
    words: NonNull<Word>,
    pub(super) length: usize,
}

impl<Cx> Stack<'_, Cx> {
    /// Finds room for so many words and marks it used.
    #[inline]
    pub(super) fn reserve(&self, words: usize) -> (Pos, NonNull<Word>) {
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
        if self.compact() {
            return self.reserve(words);
        }
        // SAFETY: the vector is touched only by this thread, within calls that do not overlap.
        let chunks = unsafe { &mut *self.chunks.get() };
        // What is above the chunk in use holds no entries.
        let in_use = self.free.get().chunk();
        if chunks.get(in_use).is_none_or(|spare| spare.length < words) {
            chunks.truncate(in_use);
            Stack::<Cx>::add_chunk(chunks, words);
        }
        let at = Pos::new(in_use + 1, 0);
        self.free.set(Pos::new(in_use + 1, words));
        (at, self.words(at))
    }

    /// Moves the entries together, if more than half of them hold nothing: what is registered and disarmed
    /// for long under something that stays would never be used again. Returns whether it did.
    fn compact(&self) -> bool {
        if self.empty.get() <= self.length.get() {
            return false;
        }
        let Some(entries) = self.at_rest() else { return false };
        self.top.set(Pos::NONE);
        self.free.set(Pos::START);
        self.empty.set(0);
        for at in entries.into_iter().rev() {
            let from = self.words(at);
            // SAFETY: as in `take`.
            let header = unsafe { from.cast::<Header>().as_mut() };
            debug_assert!(header.tag.held() != Tag::TAKEN, "it is in use where it lies");
            if header.tag.held() == Tag::NOTHING {
                continue;
            }
            header.below = self.top.get();
            let words = header.ops.words;
            let to = self.room_below(words);
            // SAFETY: the entry is of so many words, which may be copied as they are: nothing refers to it,
            // because none is being dropped. Those at `to` are used by nothing: entries are placed from the
            // lowest up, each at its old place at the highest, so nothing that is still to be moved is there.
            unsafe { self.words(to).copy_from(from, words) };
            self.top.set(to);
        }
        true
    }

    /// The places of all entries, newest first; `None` while one is in use where it lies.
    fn at_rest(&self) -> Option<Vec<Pos>> {
        let (mut entries, mut at) = (Vec::new(), self.top.get());
        while at != Pos::NONE {
            // SAFETY: as in `take`.
            let header = unsafe { self.words(at).cast::<Header>().as_ref() };
            if header.tag.held() == Tag::TAKEN {
                return None;
            }
            entries.push(at);
            at = header.below;
        }
        Some(entries)
    }

    /// The next place for so many words, in the chunks that there are.
    fn room_below(&self, words: usize) -> Pos {
        let mut at = self.free.get();
        while self.chunk_length(at.chunk()) - at.word() < words {
            at = Pos::new(at.chunk() + 1, 0);
        }
        self.free.set(Pos::new(at.chunk(), at.word() + words));
        at
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
    pub(super) fn words(&self, at: Pos) -> NonNull<Word> {
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
    pub(super) fn release_above(&mut self, chunk: usize) {
        let chunks = self.chunks.get_mut();
        if chunks.len() > chunk + 1 {
            chunks.truncate(chunk + 1);
        }
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
