//! Host memory in large chunks of huge pages.
//!
//! A step touches several hundred megabytes, much of it in strips of rows. On pages of 4 KiB its
//! address translations alone were a third of the time (`SmolLM2`, 4 x 256 tokens: 1.41 to 1.61 s a step,
//! against 0.88 to 1.00 on huge pages). Chunks stay until nothing in them is used and something else is
//! needed, so that a step after the first asks the system for nothing.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

use bytemuck::Pod;
use memmap2::{MmapMut, MmapOptions};

use crate::arena::{self, Arena, rounded};

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// Most bytes that a chunk has beyond what is asked for.
const MOST: usize = 128 << 20;

/// Bytes of the one chunk of a heap that nobody touches: more than any machine has.
const ENDLESS: usize = 1 << 40;

/// Alignment of a span.
const ALIGN: NonZero<usize> = NonZero::new(arena::ALIGN).expect("not zero");

/// Chunks of memory and which parts of them are free.
#[derive(Debug, Default)]
pub(super) struct Heap {
    arena: Arena,
    chunks: BTreeMap<u64, Chunk>,
    /// Memory is asked for that nobody means to use.
    untouched: bool,
}

#[derive(Debug)]
struct Chunk {
    /// The first whole huge page.
    first: NonNull<u8>,
    /// Unmapped with the chunk.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "held only"))]
    memory: MmapMut,
}

impl Chunk {
    /// Lets the system have `len` bytes of which no span has any, from `start` after the first on; whether it took them.
    #[cfg(target_os = "linux")]
    fn forget(&self, start: usize, len: usize) -> bool {
        let before = self.first.as_ptr().addr() - self.memory.as_ptr().addr();
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: no span refers to these bytes, so nobody sees that they become zeros.
        unsafe { self.memory.unchecked_advise_range(advice, before + start, len).is_ok() }
    }

    #[cfg(not(target_os = "linux"))]
    const fn forget(&self, _start: usize, _len: usize) -> bool {
        false
    }
}

// SAFETY: the pointer is into the mapping, which is `Send`; nothing is read or written through it here.
unsafe impl Send for Chunk {}

/// A range that the heap gave, of `len` values; its content is whatever was there before. It must go
/// back to its heap, and its heap must outlive it.
#[derive(Debug)]
pub(super) struct Span<T> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: a span is the only way to its values, as a vector is.
unsafe impl<T: Send> Send for Span<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Span<T> {}

impl<T> Default for Span<T> {
    fn default() -> Self {
        // Aligned as any other span, for it is cast as they are.
        Self { first: NonNull::without_provenance(ALIGN), len: 0 }
    }
}

impl Heap {
    pub(super) const fn new() -> Self {
        Self { arena: Arena::new(), chunks: BTreeMap::new(), untouched: false }
    }

    /// A heap whose ranges have addresses and, as long as nobody writes to them, take no memory: more of it can
    /// be had than there is.
    pub(super) fn untouched() -> Self {
        Self { untouched: true, ..Self::default() }
    }

    /// A range of `len` values; `None` without memory for it.
    pub(super) fn take<T: Pod>(&mut self, len: usize) -> Option<Span<T>> {
        let bytes = rounded(len.checked_mul(size_of::<T>())?)?;
        if bytes == 0 {
            return Some(Span::default());
        }
        let address = self.arena.take(bytes).or_else(|| {
            self.grow(bytes)?;
            self.arena.take(bytes)
        })?;
        let (start, chunk) = self.chunks.range(..=address).next_back()?;
        // SAFETY: the arena gives addresses within the chunks that it was told of.
        let first = unsafe { chunk.first.byte_add((address - start) as usize) };
        Some(Span { first: first.cast(), len })
    }

    /// Takes a span back.
    #[expect(clippy::needless_pass_by_value, reason = "what went back cannot be used again")]
    pub(super) fn give<T: Pod>(&mut self, span: Span<T>) {
        let bytes = rounded(span.len * size_of::<T>()).unwrap_or(0);
        if bytes > 0 {
            self.arena.give(span.first.as_ptr() as u64, bytes);
        }
    }

    /// Gives pages of free ranges back to the system, the largest ranges first, until they are `bytes` or none is left;
    /// says how many they were. They come again, as zeros, when they are written to.
    pub(super) fn give_back(&mut self, bytes: usize) -> usize {
        let whole = |range: Range<u64>| {
            let page = HUGE as u64;
            range.start.next_multiple_of(page)..range.end / page * page
        };
        let mut idle: Vec<_> =
            self.arena.idle().map(|(chunk, range)| (chunk, whole(range))).collect();
        idle.sort_by_key(|(_, range)| std::cmp::Reverse(range.end.saturating_sub(range.start)));
        let mut given = 0;
        for (address, range) in idle {
            let left = bytes.saturating_sub(given).next_multiple_of(HUGE);
            let len = (range.end.saturating_sub(range.start) as usize).min(left);
            if len > 0 && self.chunks[&address].forget((range.start - address) as usize, len) {
                given += len;
            }
        }
        given
    }

    /// Bytes up to the end of whatever was ever in use.
    pub(super) fn extent(&self) -> usize {
        self.arena.extent()
    }

    /// Makes that the end of what is in use now.
    pub(super) fn reset_extent(&mut self) {
        self.arena.reset_extent();
    }

    /// Maps a chunk of `bytes` where there is none yet; `None` without memory for it.
    pub(super) fn reserve(&mut self, bytes: usize) -> Option<()> {
        if bytes == 0 || !self.chunks.is_empty() {
            return Some(());
        }
        self.map(bytes)
    }

    /// Maps a chunk that has `bytes` and as much again as all others, within bounds; chunks that nothing
    /// is in, none of which has `bytes`, make way for it.
    fn grow(&mut self, bytes: usize) -> Option<()> {
        if self.untouched && self.chunks.is_empty() && self.map(bytes.max(ENDLESS)).is_some() {
            return Some(());
        }
        for idle in self.arena.shrink() {
            self.chunks.remove(&idle);
        }
        let spare = self.arena.reserved().min(MOST);
        self.map(bytes.checked_add(spare)?)
    }

    fn map(&mut self, bytes: usize) -> Option<()> {
        let size = bytes.checked_next_multiple_of(HUGE)?;
        let mut options = MmapOptions::new();
        options.len(size.checked_add(HUGE)?);
        if self.untouched {
            options.no_reserve_swap();
        }
        let mut chunk = options.map_anon().ok()?;
        // Only speed depends on it, and a system without huge pages refuses.
        #[cfg(target_os = "linux")]
        if !self.untouched {
            let _ = chunk.advise(memmap2::Advice::HugePage);
        }
        let first = NonNull::new(chunk.as_mut_ptr())?;
        // SAFETY: there is a huge page more than `size`, so its first boundary is within the mapping.
        let first = unsafe { first.add(first.align_offset(HUGE)) };
        self.arena.grow(first.as_ptr() as u64, size);
        self.chunks.insert(first.as_ptr() as u64, Chunk { first, memory: chunk });
        Some(())
    }
}

impl<T> Deref for Span<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the heap gave this range, aligned to more than any number, to this span alone, and it
        // lives; the system zeroed it once, and any bits are a `T`, for `Heap` gives `Pod` only.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Span<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_apart_aligned_and_used_again() {
        let mut heap = Heap::default();
        let mut spans: Vec<Span<u32>> =
            [0, 1, 100, 1 << 20].map(|len| heap.take(len).expect("memory")).into();
        for (i, span) in spans.iter_mut().enumerate() {
            assert!(span.is_empty() || span.as_ptr().align_offset(64) == 0);
            span.fill(i as u32);
        }
        for (i, span) in spans.iter().enumerate() {
            assert!(span.iter().all(|&x| x == i as u32));
        }
        let first = spans[3].as_ptr();
        for span in spans {
            heap.give(span);
        }
        let reserved = heap.arena.reserved();
        let again: Span<u32> = heap.take(1 << 20).expect("memory");
        assert_eq!((again.as_ptr(), heap.arena.reserved()), (first, reserved));
        heap.give(again);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn idle_pages_are_given_back_and_come_again() {
        let mut heap = Heap::default();
        heap.reserve(64 << 20).expect("memory");
        let mut spans: Vec<Span<u8>> =
            (0..4).map(|_| heap.take(8 << 20).expect("memory")).collect();
        for span in &mut spans {
            span.fill(7);
        }
        assert_eq!(heap.give_back(usize::MAX / 2), 0);
        let last = spans.pop().expect("four");
        heap.give(spans.remove(1));
        // What was never used is not there to be given.
        assert_eq!(heap.give_back(3 << 20), 4 << 20);
        assert_eq!(heap.give_back(usize::MAX / 2), 8 << 20);
        let again: Span<u8> = heap.take(8 << 20).expect("memory");
        assert!(again.iter().all(|&x| x == 0));
        assert!(spans.iter().chain([&last]).all(|span| span.iter().all(|&x| x == 7)));
        for span in spans.into_iter().chain([last, again]) {
            heap.give(span);
        }
    }

    #[test]
    fn idle_chunks_make_way() {
        let mut heap = Heap::default();
        for megabytes in 1..20 {
            let span: Span<u8> = heap.take(megabytes << 20).expect("memory");
            assert!(heap.arena.reserved() <= (megabytes << 20) + HUGE);
            heap.give(span);
        }
        assert_eq!(heap.chunks.len(), 1);
        assert!(heap.take::<u64>(usize::MAX / 8).is_none());
        assert!(heap.take::<u64>(usize::MAX).is_none());
    }
}
