//! Reproducible test data.

use half::bf16;

/// `SplitMix64`.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    pub(crate) fn words(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.bits() as u32).collect()
    }

    /// Numbers in (-1, 1), but one in `rare` is `large` times as big: data so uneven that a lane, a
    /// warp or a step left out shows in the result.
    pub(crate) fn skewed(&mut self, count: usize, rare: usize, large: f32) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let unit = (self.bits() >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
                if self.below(rare) == 0 { unit * large } else { unit }
            })
            .collect()
    }

    pub(crate) fn skewed_bf16(&mut self, count: usize, rare: usize, large: f32) -> Vec<bf16> {
        self.skewed(count, rare, large).into_iter().map(bf16::from_f32).collect()
    }
}
