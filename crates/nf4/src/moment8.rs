//! Adam's moments in blocks of 256 8-bit codes, as bitsandbytes' 8-bit optimizers hold them
//! (Dettmers et al. 2021, arXiv:2110.02861).
//!
//! The first moment takes the signed dynamic map, the second, which is never negative, the unsigned
//! one; value `i` is `map[codes[i]] * absmax[i / 256]`. A negative first moment never becomes zero:
//! it keeps its sign, as there.
#![expect(
    clippy::inline_always,
    reason = "only inlined code is compiled for the vector width of the caller"
)]

use std::sync::LazyLock;

use crate::dynamic8::{self, MIN_ABSMAX};

/// Elements that share one absmax; the last block of a tensor may be short.
pub const BLOCK: usize = 256;

/// What the codes of a moment mean, and how a value is taken to one.
#[derive(Debug)]
pub struct MomentMap {
    values: &'static [f32; 256],
    tree: [f32; 256],
}

/// The map of the first moment.
pub fn first() -> &'static MomentMap {
    static MAP: LazyLock<MomentMap> = LazyLock::new(|| MomentMap::new(dynamic8::map()));
    &MAP
}

/// The map of the second moment.
pub fn second() -> &'static MomentMap {
    static MAP: LazyLock<MomentMap> = LazyLock::new(|| MomentMap::new(dynamic8::unsigned_map()));
    &MAP
}

impl MomentMap {
    fn new(values: &'static [f32; 256]) -> Self {
        let threshold = |code: usize| match values[code + 1] {
            // What is below zero stays there.
            0.0 => -f32::from_bits(1),
            above => f32::midpoint(values[code], above),
        };
        let mut tree = [f32::NAN; 256];
        for (node, at) in tree.iter_mut().enumerate().skip(1) {
            let level = node.ilog2();
            let place = node - (1 << level);
            *at = threshold((2 * place + 1) * (128 >> level) - 1);
        }
        Self { values, tree }
    }

    /// Value of each code, ascending, in units of a block's absmax.
    pub fn values(&self) -> &'static [f32; 256] {
        self.values
    }

    /// The 255 thresholds between neighbouring codes as a binary search meets them: node 1 is the
    /// middle one, and node `n` has the lower half of its part at `2n`, the upper at `2n + 1`. Eight
    /// steps from node 1, up where the threshold is below the value, lead to 256 + code. Element 0 is
    /// not used.
    pub fn tree(&self) -> &[f32; 256] {
        &self.tree
    }

    /// The code of `x`, in units of absmax: the nearest value, a tie taking the lower one.
    #[inline(always)]
    pub fn code(&self, x: f32) -> u8 {
        let mut node = 1;
        for _ in 0..8 {
            node = 2 * node + usize::from(self.tree[node & 255] < x);
        }
        node as u8
    }

    /// Writes the codes of at most [`BLOCK`] values and returns their absmax, at least 1e-38, so that
    /// its reciprocal is finite.
    ///
    /// # Panics
    /// If there are not as many codes as values.
    #[inline(always)]
    pub fn quantize(&self, block: &[f32], codes: &mut [u8]) -> f32 {
        assert_eq!(block.len(), codes.len());
        let absmax = block.iter().fold(MIN_ABSMAX, |max, x| max.max(x.abs()));
        let inverse = 1.0 / absmax;
        for (code, x) in codes.iter_mut().zip(block) {
            *code = self.code(x * inverse);
        }
        absmax
    }

    /// Restores a block.
    ///
    /// # Panics
    /// If there are not as many codes as values.
    #[inline(always)]
    pub fn dequantize(&self, codes: &[u8], absmax: f32, block: &mut [f32]) {
        assert_eq!(block.len(), codes.len());
        for (x, code) in block.iter_mut().zip(codes) {
            *x = self.values[usize::from(*code)] * absmax;
        }
    }
}
