//! Scratch of a thread.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(amx)]
use half::bf16;

use super::heap::{Heap, Span};

/// Scratch that starts at a cache line; content unspecified.
#[derive(Debug, Default)]
pub(super) struct Lines(Span<[u64; 8]>);

/// Memory of all threads' scratch, on huge pages as everything that a step reads often.
static SCRATCH: Mutex<Heap> = Mutex::new(Heap::new());

fn heap() -> MutexGuard<'static, Heap> {
    // A panic in it is a defect that leaves a range unused at worst.
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// `len` cache lines.
    pub(super) fn lines(&mut self, len: usize) -> &mut [[u64; 8]] {
        if self.0.len() < len {
            let mut heap = heap();
            heap.give(mem::take(&mut self.0));
            self.0 = heap.take(len).expect("memory for a thread's scratch");
        }
        &mut self.0[..len]
    }

    /// All that was asked for at any time.
    #[cfg(amx)]
    pub(super) fn as_lines(&self) -> &[[u64; 8]] {
        &self.0
    }

    /// As [`as_lines`](Self::as_lines).
    #[cfg(amx)]
    pub(super) fn as_lines_mut(&mut self) -> &mut [[u64; 8]] {
        &mut self.0
    }

    pub(super) fn f32(&mut self, len: usize) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(self.lines(len.div_ceil(16)))[..len]
    }

    #[cfg(amx)]
    pub(super) fn bf16(&mut self, len: usize) -> &mut [bf16] {
        &mut bytemuck::cast_slice_mut(self.lines(len.div_ceil(32)))[..len]
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        heap().give(mem::take(&mut self.0));
    }
}
