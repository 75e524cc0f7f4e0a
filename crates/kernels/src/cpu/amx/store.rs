//! Stores of finished sums as bf16, rounded by the processor's instruction: like the tiles it takes subnormal values
//! for zeros.
//!
//! Large outputs are stored past the caches: an ordinary store reads the line first, and what has left L2 before it is
//! read is better written to memory at once. Outputs of 1 MiB and more so: `linear` 9 % less of a step's time, the
//! gates that read from memory 12 % more, the step 3 to 4 % less.

#![allow(unsafe_code)]

use std::arch::x86_64::{__m512i, _mm_sfence, _mm512_storeu_si512, _mm512_stream_si512};

use half::bf16;

use super::lanes::{self, LINE, from};

/// Rounds `values` into `out`, past the caches if that is asked for and `out` begins with a cache line. Other threads
/// are to see that only after a [`fence`]. Panics where there are no tiles.
pub(in crate::cpu) fn store(values: &[f32], out: &mut [bf16], past_caches: bool) {
    assert!(super::available() && values.len() == out.len());
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { store_lines(values, out, past_caches) }
}

/// To be called before other threads are told of what was stored past the caches.
pub(super) fn fence() {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _mm_sfence() };
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn store_lines(values: &[f32], out: &mut [bf16], past_caches: bool) {
    let (values, last) = values.as_chunks::<LINE>();
    let (out, last_out) = out.as_chunks_mut::<LINE>();
    let past_caches = past_caches && out.as_ptr().addr().is_multiple_of(2 * LINE);
    for (values, out) in values.iter().zip(out) {
        // SAFETY: `out` has the 64 bytes of a line, and begins with one where it is stored past the caches.
        unsafe { store_line(values, out.as_mut_ptr().cast(), past_caches) };
    }
    let mut padded = [0.0; LINE];
    padded[..last.len()].copy_from_slice(last);
    let rounded = lanes::line(round(&padded));
    last_out.copy_from_slice(&rounded[..last_out.len()]);
}

/// Rounds and stores what makes a cache line.
///
/// # Safety
///
/// `out` is 64 bytes that may be written, and a cache line where they are stored past the caches.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn store_line(values: &[f32; LINE], out: *mut __m512i, past_caches: bool) {
    let line = round(values);
    // SAFETY: by the caller's contract.
    unsafe {
        if past_caches {
            _mm512_stream_si512(out, line);
        } else {
            _mm512_storeu_si512(out, line);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(values: &[f32; LINE]) -> __m512i {
    let [low, high] = values.as_chunks().0 else { unreachable!("a line is two registers") };
    lanes::round([from(low), from(high)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rounds_to_the_nearest_wherever_it_stores() {
        if !super::super::available() {
            return;
        }
        let special =
            [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1.0 + 1.0 / 256.0];
        let values =
            (0..300).map(|i| special.get(i).copied().unwrap_or((i as f32 - 150.3).powi(3)));
        let values: Vec<f32> = values.collect();
        for past_caches in [false, true] {
            for (start, len) in [(0, 300), (3, 297), (32, 64), (1, 31), (7, 0)] {
                let mut out = vec![bf16::ONE; 364];
                let first = out.as_ptr().align_offset(64) + start;
                store(&values[..len], &mut out[first..first + len], past_caches);
                fence();
                for (i, out) in out.iter().enumerate() {
                    let expected = match i.checked_sub(first).filter(|i| *i < len) {
                        Some(i) => bf16::from_f32(values[i]),
                        None => bf16::ONE,
                    };
                    assert_eq!(out.to_bits(), expected.to_bits(), "{i} of {len} from {start}");
                }
            }
        }
    }
}
