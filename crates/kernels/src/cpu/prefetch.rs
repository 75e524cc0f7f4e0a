//! Asks for memory before it is needed.
#![allow(unsafe_code)]
#![expect(clippy::inline_always, reason = "a few instructions in the middle of a loop")]

/// Bytes that one request brings.
const LINE: usize = 64;

/// Begins to bring the elements to the nearest cache, to be read.
#[inline(always)]
pub(super) fn to_read<T>(x: &[T]) {
    to_read_beyond(x, 0);
}

/// Begins to bring the elements to the nearest cache, to be written.
#[inline(always)]
pub(super) fn to_write<T>(x: &[T]) {
    to_write_beyond(x, 0);
}

/// As [`to_read`], for what lies `bytes` further on, whatever that is.
#[inline(always)]
pub(super) fn to_read_beyond<T>(x: &[T], bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(LINE / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch neither faults nor changes memory, wherever the pointer points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_byte_add(bytes).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, bytes, LINE);
}

/// As [`to_write`], for what lies `bytes` further on, whatever that is.
#[inline(always)]
pub(super) fn to_write_beyond<T>(x: &[T], bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in x.chunks(LINE / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch neither faults nor changes memory, wherever the pointer points.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().wrapping_byte_add(bytes).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, bytes);
}
