//! One bit for each byte: has anything been written there?

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{LINE, lines, racy::Bytes};

/// Valid bits of an allocation.
#[derive(Debug)]
pub(crate) struct Valid {
    bits: Bytes,
    len: usize,
    /// Every byte is known to be valid; most buffers are filled by one call.
    complete: AtomicBool,
}

impl Valid {
    /// No byte of `len` is valid.
    pub(crate) fn new(len: usize) -> Self {
        let bits = Bytes::zeroed_or_abort(len.div_ceil(LINE) * 8);
        Self { bits, len, complete: AtomicBool::new(false) }
    }

    /// Whether every byte is known to be valid.
    #[inline(always)]
    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Relaxed)
    }

    /// The bytes of `mask` in a line that are not valid.
    #[inline(always)]
    pub(crate) fn missing(&self, line: usize, mask: u64) -> u64 {
        mask & !self.bits.u64(line * 8).load(Relaxed)
    }

    /// Marks the bytes of `mask` in a line.
    #[inline(always)]
    pub(crate) fn mark(&self, line: usize, mask: u64) {
        let word = self.bits.u64(line * 8);
        let old = word.load(Relaxed);
        if old & mask == mask {
            return;
        }
        if mask == u64::MAX {
            word.store(mask, Relaxed);
        } else {
            word.fetch_or(mask, Relaxed);
        }
    }

    /// Whether every byte of the non-empty range `[start, end)` is valid.
    pub(crate) fn all(&self, start: usize, end: usize) -> bool {
        self.is_complete() || lines(start, end).all(|(line, mask)| self.missing(line, mask) == 0)
    }

    /// Marks the non-empty range `[start, end)`.
    pub(crate) fn set(&self, start: usize, end: usize) {
        for (line, mask) in lines(start, end) {
            self.mark(line, mask);
        }
        if start == 0 && end >= self.len {
            self.complete.store(true, Relaxed);
        }
    }

    /// Marks one byte as never written.
    pub(crate) fn clear(&self, at: usize) {
        self.complete.store(false, Relaxed);
        self.bits.u64(at / LINE * 8).fetch_and(!(1 << (at % LINE)), Relaxed);
    }
}
