//! Restores 4-bit codes into elements of 16 bits, 32 at a time.
//!
//! The 16 values of a block, each rounded once, are half a register, and `vpermw` looks 32 codes up in it: into bf16
//! this takes 1.2 ms for 4096 x 4096 on two threads, where multiplying, storing as f32 and rounding took 3.2.

use pulp::{NullaryFnOnce, x86::V4};

use crate::Element;

/// Words of a register; divides all block sizes.
const WORDS: usize = 32;

/// Restores elements from the first of a block on, each code by one look-up of its value in the block. False, and
/// nothing done, unless elements are of 16 bits and the processor looks 32 of them up at a time.
pub(crate) fn look_up<T: Element>(
    packed: &[u8],
    absmax: &[f32],
    values: &[f32; 16],
    blocksize: usize,
    out: &mut [T],
) -> bool {
    V4::try_new()
        .is_some_and(|simd| simd.vectorize(LookUp { simd, packed, absmax, values, blocksize, out }))
}

struct LookUp<'a, T> {
    simd: V4,
    packed: &'a [u8],
    absmax: &'a [f32],
    values: &'a [f32; 16],
    blocksize: usize,
    out: &'a mut [T],
}

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
