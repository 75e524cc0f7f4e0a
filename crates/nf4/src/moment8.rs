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

/// Buckets of values that are alike in sign, exponent and the upper 7 bits of the mantissa.
const BUCKETS: usize = 1 << 13;
/// What the lowest buckets, for either sign, hold in these bits: magnitudes below `2^-22`, where the
/// only threshold is the one at zero.
const LOWEST: u32 = (127 - 22) << 7;

/// What the codes of a moment mean, and how a value is taken to one.
#[derive(Debug)]
pub struct MomentMap {
    values: &'static [f32; 256],
    tree: [f32; 256],
    /// Between neighbouring codes; nothing is above the last one.
    thresholds: [f32; 256],
    /// Code of the least value of each bucket. A bucket is too narrow for two thresholds.
    codes: Box<[u32; BUCKETS]>,
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
        let mut thresholds = [f32::INFINITY; 256];
        thresholds[..255].iter_mut().enumerate().for_each(|(code, at)| *at = threshold(code));
        let code_of_least = |bucket| thresholds.partition_point(|at| *at < least(bucket)) as u32;
        let codes: Vec<u32> = (0..BUCKETS).map(code_of_least).collect();
        let codes = codes.try_into().expect("one for each bucket");
        Self { values, tree, thresholds, codes }
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
        // NaN goes to the lowest code.
        let lowest = if self.values[0] < 0.0 { -1.0 } else { 0.0 };
        let x = if x > lowest { x } else { lowest };
        let x = if x < 1.0 { x } else { 1.0 };
        let code = self.codes[bucket(x)] & 255;
        (code + u32::from(self.thresholds[code as usize] < x)) as u8
    }

    /// Writes the codes of at most [`BLOCK`] values and returns their absmax, at least 1e-38, so that
    /// its reciprocal is finite.
    ///
    /// # Panics
    /// If there are not as many codes as values.
    #[inline(always)]
    pub fn quantize(&self, block: &[f32], codes: &mut [u8]) -> f32 {
        assert_eq!(block.len(), codes.len());
        let absmax = absmax(block);
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

/// Bucket of a value of at most 1 in magnitude.
#[inline(always)]
fn bucket(x: f32) -> usize {
    let (sign, magnitude) = (x.to_bits() >> 31, x.abs().to_bits() >> 16);
    (sign << 12 | (magnitude.max(LOWEST) - LOWEST)) as usize & (BUCKETS - 1)
}

/// The least value of a bucket.
fn least(bucket: usize) -> f32 {
    let magnitude = bucket as u32 % (1 << 12);
    if bucket >> 12 == 1 {
        return -f32::from_bits(((magnitude + LOWEST + 1) << 16) - 1);
    }
    if magnitude == 0 { 0.0 } else { f32::from_bits((magnitude + LOWEST) << 16) }
}

/// Largest magnitude, NaN left out; in lanes, so that it takes no chain of comparisons.
#[inline(always)]
fn absmax(block: &[f32]) -> f32 {
    const LANES: usize = 32;
    let larger = |max: f32, x: f32| if x.abs() > max { x.abs() } else { max };
    let (lanes, rest) = block.as_chunks::<LANES>();
    let mut largest = [MIN_ABSMAX; LANES];
    for x in lanes {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], x[lane]);
        }
    }
    largest.iter().chain(rest).fold(MIN_ABSMAX, |max, x| larger(max, *x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_search_in_the_tree() {
        let in_tree = |map: &MomentMap, x: f32| {
            let step = |node: usize, _| 2 * node + usize::from(map.tree[node] < x);
            (0..8).fold(1, step) as u8
        };
        for map in [first(), second()] {
            let at = map.thresholds.iter().flat_map(|x| [x.next_down(), *x, x.next_up()]);
            let edges = (0..=u16::MAX).map(|high| f32::from_bits(u32::from(high) << 16));
            let edges = edges.flat_map(|x| [x.next_down(), x, x.next_up()]);
            let all = (0..=u32::MAX).step_by(4_093).map(f32::from_bits);
            for x in at.chain(edges).chain(all) {
                assert_eq!(map.code(x), in_tree(map, x), "{x:e}");
            }
        }
    }
}
