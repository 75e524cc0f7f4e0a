//! The bytes that a warp's access covers.

// Loops are written out: the standard library's adapters are not inlined into a function that turns
// vector instructions on.

use std::ops::Range;

use pulp::Simd;

use crate::{
    alu::WARP,
    memory::{LINE, lines},
};

/// Lines of 64 bytes of one allocation that an access touches, with a bit for each byte of them.
#[derive(Debug)]
pub(in crate::exec) struct Lines {
    entries: [(u32, u64); WARP],
    count: usize,
    /// Where the bytes start, if all lanes take part and follow one another.
    pub(super) whole: Option<usize>,
    /// Where the bytes of the first lane start and how far it is from each lane to the next, if all lanes take part
    /// and none reaches into the part of another.
    pub(super) spaced: Option<(usize, usize)>,
    /// All bytes of all lines, which follow one another.
    full: bool,
}

impl Lines {
    pub(in crate::exec) const EMPTY: Self =
        Self { entries: [(0, 0); WARP], count: 0, whole: None, spaced: None, full: false };

    /// All lanes, one after the other.
    #[inline(always)]
    pub(super) fn set_whole(&mut self, start: usize, bytes: usize) {
        (self.whole, self.spaced) = (Some(start), None);
        self.full = start.is_multiple_of(LINE) && (bytes * WARP).is_multiple_of(LINE);
        if self.full {
            self.count = bytes * WARP / LINE;
            for index in 0..self.count {
                self.entries[index] = ((start / LINE + index) as u32, u64::MAX);
            }
            return;
        }
        self.count = 0;
        for (line, mask) in lines(start, start + bytes * WARP) {
            self.entries[self.count] = (line as u32, mask);
            self.count += 1;
        }
    }

    /// The lines, if every byte of them is touched and they follow one another.
    #[inline(always)]
    pub(super) fn full(&self) -> Option<Range<usize>> {
        let first = self.entries[0].0 as usize;
        self.full.then_some(first..first + self.count)
    }

    /// The lines, if every 16 bytes of them are touched alike and they follow one another, and which bytes of 16.
    #[inline(always)]
    pub(super) fn alike(&self) -> Option<(Range<usize>, u64)> {
        let (first, mask) = self.entries[0];
        let first = first as usize;
        let (_, stride) = self.spaced?;
        (stride <= 16).then_some((first..first + self.count, mask & 0xffff))
    }

    /// All lanes, the bytes of `part` each, `stride` bytes apart; false if the lines do not all get the
    /// same bytes.
    #[inline(always)]
    pub(super) fn set_strided(&mut self, start: usize, stride: usize, part: u64) -> bool {
        let first = start % LINE;
        if !matches!(stride, 8 | 16 | 32) || first >= stride || part >> (stride - first) != 0 {
            return false;
        }
        let mut mask = part << first;
        let mut repeat = stride;
        while repeat < LINE {
            mask |= mask << repeat;
            repeat *= 2;
        }
        (self.count, self.full) = (WARP * stride / LINE, false);
        (self.whole, self.spaced) = (None, Some((start, stride)));
        for index in 0..self.count {
            self.entries[index] = ((start / LINE + index) as u32, mask);
        }
        true
    }

    /// The lanes of `mask`, the bytes of `part` each, at aligned addresses inside the allocation at
    /// `base`.
    #[inline(always)]
    pub(super) fn set(&mut self, addresses: &[u64; WARP], mask: u32, part: u64, base: u64) {
        (self.whole, self.spaced, self.full) = (None, None, false);
        let mut count = 0;
        let (mut last, mut covered) = (0, 0);
        let mut rest = mask;
        while rest != 0 {
            let at = addresses[rest.trailing_zeros() as usize].wrapping_sub(base);
            rest &= rest - 1;
            let (line, bits) = ((at / LINE as u64) as u32, part << (at % LINE as u64));
            if line == last {
                covered |= bits;
            } else {
                self.entries[count] = (last, covered);
                count += usize::from(covered != 0);
                (last, covered) = (line, bits);
            }
        }
        self.entries[count] = (last, covered);
        self.count = count + 1;
    }

    #[inline(always)]
    pub(in crate::exec) fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.entries[..self.count].iter().map(|&(line, mask)| (line as usize, mask))
    }

    /// Distinct 32-byte sectors.
    #[inline(always)]
    pub(super) fn sectors(&self) -> u64 {
        if self.full {
            return 2 * self.count as u64;
        }
        let (mut next, mut count) = (0, 0);
        for (line, mask) in self.iter() {
            if line < next {
                return self.unordered_sectors();
            }
            next = line + 1;
            count += sectors(mask);
        }
        count
    }

    #[cold]
    fn unordered_sectors(&self) -> u64 {
        let mut entries = self.entries[..self.count].to_vec();
        entries.sort_unstable();
        entries
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| sectors(same.iter().fold(0, |all, &(_, mask)| all | mask)))
            .sum()
    }
}

#[inline(always)]
fn sectors(mask: u64) -> u64 {
    u64::from(mask as u32 != 0) + u64::from(mask >> 32 != 0)
}

/// The distance from each lane to the next, if it is the same and no longer than a line.
#[inline(always)]
pub(super) fn stride(addresses: &[u64; WARP]) -> Option<usize> {
    let stride = addresses[1].wrapping_sub(addresses[0]);
    #[cfg(target_arch = "x86_64")]
    let even = match pulp::x86::V3::try_new() {
        Some(simd) => are_even(simd, addresses, stride),
        None => are_even(pulp::Scalar, addresses, stride),
    };
    #[cfg(not(target_arch = "x86_64"))]
    let even = are_even(pulp::Scalar, addresses, stride);
    (stride <= LINE as u64 && even).then_some(stride as usize)
}

/// Whether each lane is `stride` from the one before it. Written with vectors because the compiler takes the lanes apart
/// otherwise; aligned ones, because a load from two vectors that were just stored waits for both.
#[inline(always)]
fn are_even<S: Simd>(simd: S, addresses: &[u64; WARP], stride: u64) -> bool {
    const WIDEST: usize = 8;
    let mut lanes = [addresses[0]; WIDEST];
    for lane in 1..WIDEST {
        lanes[lane] = lanes[lane - 1].wrapping_add(stride);
    }
    let mut expected = S::as_simd_u64s(&lanes).0[0];
    let step = simd.splat_u64s(stride.wrapping_mul(S::U64_LANES as u64));
    let mut different = simd.splat_u64s(0);
    for &at in S::as_simd_u64s(addresses).0 {
        different = simd.or_u64s(different, simd.xor_u64s(at, expected));
        expected = simd.add_u64s(expected, step);
    }
    let mut left = [0; WIDEST];
    S::as_mut_simd_u64s(&mut left).0[0] = different;
    left == [0; WIDEST]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Lanes that are evenly spaced cover what they cover one by one.
        #[test]
        fn evenly_spaced_lanes_cover_the_same(
            start in 0..200_usize, wide in 0..5_u32, used in 1..=u8::MAX, spacing in 0..80_u64,
        ) {
            let base = 4096;
            let part = u64::from(used) & ((1 << (1 << wide.min(3))) - 1);
            for stride in [spacing, 8, 16, 32] {
                let addresses = std::array::from_fn(|lane| base + start as u64 + lane as u64 * stride);
                let expected = (stride <= LINE as u64).then_some(stride as usize);
                prop_assert_eq!(super::stride(&addresses), expected);
                let mut at_once = Lines::EMPTY;
                if part != 0 && at_once.set_strided(start, stride as usize, part) {
                    let mut one_by_one = Lines::EMPTY;
                    one_by_one.set(&addresses, u32::MAX, part, base);
                    prop_assert!(at_once.iter().eq(one_by_one.iter()));
                }
            }
        }

        /// Lanes that follow one another cover what they cover one by one, and all of it where they say so.
        #[test]
        fn lanes_in_a_row_cover_the_same(start in 0..70_usize, wide in 0..5_u32) {
            let bytes = 1 << wide;
            for start in [start * bytes, start * LINE] {
                let addresses = std::array::from_fn(|lane| (4096 + start + lane * bytes) as u64);
                let (mut at_once, mut one_by_one) = (Lines::EMPTY, Lines::EMPTY);
                at_once.set_whole(start, bytes);
                one_by_one.set(&addresses, u32::MAX, (1 << bytes) - 1, 4096);
                prop_assert!(at_once.iter().eq(one_by_one.iter()));
                prop_assert_eq!(at_once.sectors(), one_by_one.sectors());
                let full = at_once.full().map(|lines| lines.map(|line| (line, u64::MAX)));
                let all = at_once.iter().all(|(_, mask)| mask == u64::MAX);
                prop_assert_eq!(full.is_some(), all);
                prop_assert!(full.is_none_or(|full| full.eq(one_by_one.iter())));
            }
        }

        /// Distances that differ, or go down, are no stride.
        #[test]
        fn other_lanes_have_no_stride(lane in 1..WARP, by in 1..9_u64) {
            let mut addresses: [u64; WARP] = std::array::from_fn(|lane| 4096 + lane as u64 * 8);
            addresses[lane] += by;
            prop_assert_eq!(stride(&addresses), None);
            prop_assert_eq!(stride(&std::array::from_fn(|lane| 4096 - lane as u64 * 8)), None);
        }
    }

    #[test]
    fn two_floats_in_four_are_covered_at_once() {
        let mut lines = Lines::EMPTY;
        assert!(lines.set_strided(64, 8, 0xf));
        assert!(lines.set_strided(68, 8, 0xf));
        assert!(!lines.set_strided(66, 8, 0xff), "the next line has some of it");
    }
}
