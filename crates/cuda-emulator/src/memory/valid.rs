//! One bit for each byte: has anything been written there?

use std::sync::atomic::Ordering::Relaxed;

use super::racy::Bytes;

/// Valid bits of an allocation.
#[derive(Debug)]
pub(crate) struct Valid(Bytes);

impl Valid {
    /// No byte of `len` is valid.
    pub(crate) fn new(len: usize) -> Self {
        Self(Bytes::zeroed_or_abort(len.div_ceil(64) * 8))
    }

    /// Calls `visit` with each word that `[start, end)` touches and the bits of it that lie inside.
    #[inline(always)]
    fn words(start: usize, end: usize, mut visit: impl FnMut(usize, u64) -> bool) -> bool {
        let (first, last) = (start / 64, (end - 1) / 64);
        for word in first..=last {
            let mut bits = u64::MAX;
            if word == first {
                bits &= u64::MAX << (start % 64);
            }
            if word == last {
                bits &= u64::MAX >> (63 - (end - 1) % 64);
            }
            if !visit(word * 8, bits) {
                return false;
            }
        }
        true
    }

    /// Whether every byte of the non-empty range `[start, end)` is valid.
    #[inline(always)]
    pub(crate) fn all(&self, start: usize, end: usize) -> bool {
        Self::words(start, end, |at, bits| self.0.u64(at).load(Relaxed) & bits == bits)
    }

    /// The first byte of `[start, end)` that is not valid.
    pub(crate) fn first_missing(&self, start: usize, end: usize) -> Option<usize> {
        let mut missing = None;
        Self::words(start, end, |at, bits| {
            let holes = !self.0.u64(at).load(Relaxed) & bits;
            if holes != 0 {
                missing = Some(at * 8 + holes.trailing_zeros() as usize);
            }
            holes == 0
        });
        missing
    }

    /// Marks the non-empty range `[start, end)`.
    #[inline(always)]
    pub(crate) fn set(&self, start: usize, end: usize) {
        Self::words(start, end, |at, bits| {
            let word = self.0.u64(at);
            if bits == u64::MAX {
                word.store(bits, Relaxed);
            } else if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, Relaxed);
            }
            true
        });
    }

    /// Marks or clears one byte.
    pub(crate) fn put(&self, at: usize, valid: bool) {
        let bit = 1 << (at % 64);
        let word = self.0.u64(at / 64 * 8);
        if valid {
            word.fetch_or(bit, Relaxed);
        } else {
            word.fetch_and(!bit, Relaxed);
        }
    }
}
