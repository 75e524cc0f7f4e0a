//! The byte ranges that a warp's access covers.

use crate::{alu::WARP, exec::warp::lanes};

/// Contiguous byte ranges that the lanes of one access cover, as offsets in an allocation.
#[derive(Debug)]
pub(in crate::exec) struct Runs {
    ranges: [(usize, usize); WARP],
    count: usize,
    /// All lanes take part and follow one another.
    pub(super) whole: bool,
}

impl Runs {
    pub(in crate::exec) const EMPTY: Self = Self { ranges: [(0, 0); WARP], count: 0, whole: false };

    /// One range of all lanes.
    #[inline(always)]
    pub(super) fn set_whole(&mut self, start: usize, end: usize) {
        self.ranges[0] = (start, end);
        (self.count, self.whole) = (1, true);
    }

    /// Of the lanes of `mask`, `bytes` each; lanes that repeat or continue the one before share a run.
    pub(super) fn set(&mut self, addresses: &[u64; WARP], mask: u32, bytes: usize, base: u64) {
        (self.count, self.whole) = (0, false);
        let (mut start, mut end) = (usize::MAX, usize::MAX);
        lanes(mask, |lane| {
            let at = (addresses[lane] - base) as usize;
            if at == end {
                end += bytes;
            } else if start == usize::MAX || at < start || at + bytes > end {
                if start != usize::MAX {
                    self.ranges[self.count] = (start, end);
                    self.count += 1;
                }
                (start, end) = (at, at + bytes);
            }
        });
        self.ranges[self.count] = (start, end);
        self.count += 1;
    }

    #[inline(always)]
    pub(in crate::exec) fn iter(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.ranges[..self.count].iter().copied()
    }

    /// Distinct 32-byte sectors.
    pub(super) fn sectors(&self) -> u64 {
        let runs = &self.ranges[..self.count];
        if runs.windows(2).all(|pair| pair[0].1 <= pair[1].0) {
            let mut last = usize::MAX;
            let mut count = 0;
            for &(start, end) in runs {
                let (first, final_) = (start / 32, (end - 1) / 32);
                count += final_ - first + usize::from(first != last);
                last = final_;
            }
            return count as u64;
        }
        let mut all: Vec<usize> =
            runs.iter().flat_map(|&(start, end)| start / 32..=(end - 1) / 32).collect();
        all.sort_unstable();
        all.dedup();
        all.len() as u64
    }
}

#[inline(always)]
pub(super) fn is_contiguous(addresses: &[u64; WARP], bytes: usize) -> bool {
    let first = addresses[0];
    let mut different = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        different |= address ^ first.wrapping_add((lane * bytes) as u64);
    }
    different == 0
}
