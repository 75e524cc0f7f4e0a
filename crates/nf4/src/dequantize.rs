#[cfg(target_arch = "x86_64")]
use pulp::{NullaryFnOnce, x86::V4};
use rayon::prelude::*;

use crate::{Element, QuantType};

/// Elements one task restores.
const CHUNK: usize = 1 << 15;

/// Restores the elements `start .. start + out.len()` of a quantised weight, on this thread.
///
/// `packed` and `absmax` are those of the whole weight (flat, row-major); any `start` will do.
/// Each value is `code value * absmax`, one f32 rounding. Panics when the range reaches past the
/// end of `packed` or `absmax`.
pub fn dequantize_range(
    packed: &[u8],
    absmax: &[f32],
    quant_type: QuantType,
    blocksize: usize,
    start: usize,
    out: &mut [f32],
) {
    let pairs = &quant_type.book().pairs;
    let (mut at, mut out) = (start, out);
    while !out.is_empty() {
        let block = at / blocksize;
        let len = out.len().min((block + 1) * blocksize - at);
        let (head, rest) = out.split_at_mut(len);
        decode(&packed[at / 2..], at % 2, absmax[block], pairs, head);
        at += len;
        out = rest;
    }
}

/// Restores one block's elements, the first of which is nibble `skip` of the first byte.
fn decode(packed: &[u8], skip: usize, absmax: f32, pairs: &[[f32; 2]; 256], out: &mut [f32]) {
    let (head, out) = out.split_at_mut(skip.min(out.len()));
    if let [first] = head {
        *first = pairs[packed[0] as usize][1] * absmax;
    }
    let (whole, last) = out.as_chunks_mut::<2>();
    let packed = &packed[skip..];
    for (out, byte) in whole.iter_mut().zip(packed) {
        let [high, low] = pairs[*byte as usize];
        *out = [high * absmax, low * absmax];
    }
    if let [last] = last {
        *last = pairs[packed[whole.len()] as usize][0] * absmax;
    }
}

/// Restores a whole weight on the current rayon pool.
pub(crate) fn dequantize_all<T: Element>(
    packed: &[u8],
    absmax: &[f32],
    quant_type: QuantType,
    blocksize: usize,
    out: &mut [T],
) {
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
        let first = i * CHUNK;
        if first.is_multiple_of(blocksize) {
            let (packed, absmax) = (&packed[first / 2..], &absmax[first / blocksize..]);
            if look_up(packed, absmax, quant_type.values(), blocksize, out) {
                return;
            }
        }
        T::fill(out, |start, values| {
            dequantize_range(packed, absmax, quant_type, blocksize, first + start, values);
        });
    });
}

/// Restores elements from the first of a block on, each code by one look-up of its value in the block. False, and
/// nothing done, unless elements are of 16 bits and the processor looks 32 of them up at a time.
#[cfg(target_arch = "x86_64")]
fn look_up<T: Element>(
    packed: &[u8],
    absmax: &[f32],
    values: &[f32; 16],
    blocksize: usize,
    out: &mut [T],
) -> bool {
    let simd = V4::try_new().filter(|_| blocksize.is_multiple_of(WORDS));
    simd.is_some_and(|simd| simd.vectorize(LookUp { simd, packed, absmax, values, blocksize, out }))
}

#[cfg(not(target_arch = "x86_64"))]
fn look_up<T>(_: &[u8], _: &[f32], _: &[f32; 16], _: usize, _: &mut [T]) -> bool {
    false
}

/// Words of a register.
#[cfg(target_arch = "x86_64")]
const WORDS: usize = 32;

#[cfg(target_arch = "x86_64")]
struct LookUp<'a, T> {
    simd: V4,
    packed: &'a [u8],
    absmax: &'a [f32],
    values: &'a [f32; 16],
    blocksize: usize,
    out: &'a mut [T],
}

#[cfg(target_arch = "x86_64")]
#[expect(clippy::inline_always, reason = "compiled for the vectors of the caller")]
impl<T: Element> LookUp<'_, T> {
    /// What the codes of a block stand for, twice: a look-up minds five bits of an index and not four.
    #[inline(always)]
    fn table(values: &[f32; 16], absmax: f32) -> Option<[u16; WORDS]> {
        let mut rounded = [T::from_f32(0.0); 16];
        for (rounded, value) in rounded.iter_mut().zip(values) {
            *rounded = T::from_f32(value * absmax);
        }
        let words: &[u16; 16] = T::as_words(&mut rounded)?.first_chunk()?;
        Some(pulp::cast([*words; 2]))
    }

    /// The words of 32 codes.
    #[inline(always)]
    fn restore(simd: V4, bytes: [u8; WORDS / 2], table: [u16; WORDS]) -> [u16; WORDS] {
        let V4 { avx512bw, avx512f, .. } = simd;
        let bytes = avx512f._mm512_cvtepu8_epi32(pulp::cast(bytes));
        let high = avx512f._mm512_srli_epi32::<4>(bytes);
        let low = avx512f._mm512_slli_epi32::<16>(bytes);
        let index = avx512f._mm512_or_si512(high, low);
        pulp::cast(avx512bw._mm512_permutexvar_epi16(index, pulp::cast(table)))
    }
}

#[cfg(target_arch = "x86_64")]
impl<T: Element> NullaryFnOnce for LookUp<'_, T> {
    type Output = bool;

    #[expect(clippy::inline_always, reason = "compiled for the vectors of the caller")]
    #[inline(always)]
    fn call(self) -> bool {
        let Self { simd, packed, absmax, values, blocksize, out } = self;
        let Some(out) = T::as_words(out) else { return false };
        let blocks = packed.chunks(blocksize / 2).zip(out.chunks_mut(blocksize));
        for ((packed, out), absmax) in blocks.zip(absmax) {
            let Some(table) = Self::table(values, *absmax) else { return false };
            let (out, last) = out.as_chunks_mut::<WORDS>();
            let (packed, rest) = packed.as_chunks::<{ WORDS / 2 }>();
            for (out, bytes) in out.iter_mut().zip(packed) {
                *out = Self::restore(simd, *bytes, table);
            }
            if !last.is_empty() {
                let rest = packed.get(out.len()).map_or(rest, |whole| whole);
                let mut bytes = [0; WORDS / 2];
                bytes[..rest.len()].copy_from_slice(rest);
                last.copy_from_slice(&Self::restore(simd, bytes, table)[..last.len()]);
            }
        }
        true
    }
}
