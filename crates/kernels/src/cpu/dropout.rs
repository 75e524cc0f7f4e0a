//! The mask of LoRA dropout.

use half::bf16;

use super::check::Op;
use super::simd::simd;
use crate::ops::Dropout;
use crate::{Philox, Result};

/// Counters drawn side by side.
const LANES: usize = 16;
/// Words of that many counters.
const WORDS: usize = 4 * LANES;

/// Multiplies elements by 0 or by `1 / (1 - p)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mask {
    philox: Philox,
    threshold: u32,
    keep: f32,
}

impl Mask {
    pub(super) fn new(op: Op, dropout: Dropout) -> Result<Self> {
        op.dropout(dropout)?;
        Ok(Self {
            philox: Philox::new(dropout.key, dropout.stream),
            threshold: dropout.threshold(),
            keep: 1.0 / (1.0 - dropout.p),
        })
    }

    /// What is kept is multiplied by this.
    pub(super) const fn keep(&self) -> f32 {
        self.keep
    }

    /// Elements `start..start + x.len()` of the whole tensor with zeros where they are dropped, not
    /// scaled: bf16 values stay what they are.
    pub(super) fn select(&self, start: usize, x: &[bf16], out: &mut [bf16]) {
        const BLOCK: usize = 256;
        simd!(for (i, (x, out)) in x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)).enumerate() {
            let mut factors = [1.0; BLOCK];
            self.apply_from(start + i * BLOCK, &mut factors[..x.len()]);
            for ((out, x), factor) in out.iter_mut().zip(x).zip(&factors) {
                *out = if *factor == 0.0 { bf16::ZERO } else { *x };
            }
        });
    }

    /// Masks elements `start..start + x.len()` of the whole tensor.
    pub(super) fn apply(&self, start: usize, x: &mut [f32]) {
        simd!(self.apply_from(start, x));
    }

    #[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    #[inline(always)]
    fn apply_from(&self, start: usize, x: &mut [f32]) {
        // Words come in fours; the first of them may belong to elements before `start`.
        let skip = start % 4;
        let (head, rest) = x.split_at_mut(x.len().min((4 - skip) % 4));
        let first = start.div_ceil(4) as u64;
        self.apply_to(head, &self.philox.block(start as u64 / 4)[skip..]);
        for (i, x) in rest.chunks_mut(WORDS).enumerate() {
            let words = self.philox.blocks::<LANES>(first + (i * LANES) as u64);
            self.apply_to(x, words.as_flattened());
        }
    }

    #[expect(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    #[inline(always)]
    fn apply_to(&self, x: &mut [f32], words: &[u32]) {
        for (x, &word) in x.iter_mut().zip(words) {
            *x *= if word >= self.threshold { self.keep } else { 0.0 };
        }
    }
}
