//! Passes over the 32 banks of shared memory that an access takes.
//!
//! A pass serves 128 bytes: all lanes of a 4-byte access, half of them at 8 bytes, a quarter at 16.
//! Lanes that ask for the same word share it. Source: NVIDIA, "CUDA C++ Programming Guide", shared
//! memory of compute capability 5 and later.

use crate::{alu::WARP, counters::SharedCounters};

/// Counts one request of the lanes of `active`, `bytes` each.
#[inline(always)]
pub(super) fn count(
    counters: &mut SharedCounters,
    addresses: &[u64; WARP],
    active: u32,
    bytes: usize,
) {
    let lanes = if bytes <= 4 { WARP } else { 128 / bytes };
    counters.requests += 1;
    let mut start = 0;
    while start < WARP {
        let mask = (active >> start) & (u32::MAX >> (WARP - lanes));
        if mask != 0 {
            counters.ideal_wavefronts += 1;
            counters.wavefronts += wavefronts(&addresses[start..start + lanes], mask, bytes);
        }
        start += lanes;
    }
}

/// Counts the reading of one 8 x 8 matrix: eight rows of 16 bytes.
pub(super) fn count_rows(counters: &mut SharedCounters, rows: &[u64]) {
    counters.ideal_wavefronts += 1;
    counters.wavefronts += wavefronts(rows, (1 << rows.len()) - 1, 16);
}

#[inline(always)]
fn wavefronts(addresses: &[u64], mask: u32, bytes: usize) -> u64 {
    // Almost always every lane has banks of its own, or all ask for the same.
    let width = bytes.max(4) / 4;
    let first = addresses[mask.trailing_zeros() as usize];
    let (mut taken, mut clash, mut differ) = (0_u32, false, false);
    for (lane, &address) in addresses.iter().enumerate() {
        if mask >> lane & 1 != 0 {
            let banks = (((1_u64 << width) - 1) as u32).rotate_left((address >> 2) as u32 & 31);
            clash |= taken & banks != 0;
            taken |= banks;
            differ |= address != first;
        }
    }
    if clash && differ { conflicts(addresses, mask, width) } else { 1 }
}

#[inline(never)]
fn conflicts(addresses: &[u64], mask: u32, width: usize) -> u64 {
    let mut words = [0_u64; 64];
    let mut count = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        if mask >> lane & 1 != 0 {
            for word in 0..width {
                words[count] = (address >> 2) + word as u64;
                count += 1;
            }
        }
    }
    let words = &mut words[..count];
    words.sort_unstable();
    let mut degree = [0_u64; 32];
    let mut last = u64::MAX;
    for &word in words.iter() {
        if word != last {
            degree[(word & 31) as usize] += 1;
            last = word;
        }
    }
    degree.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: usize, address: impl Fn(usize) -> usize) -> (u64, u64) {
        let mut counters = SharedCounters::default();
        let addresses = std::array::from_fn(|lane| address(lane) as u64);
        count(&mut counters, &addresses, u32::MAX, bytes);
        (counters.wavefronts, counters.ideal_wavefronts)
    }

    #[test]
    fn passes_of_the_usual_patterns() {
        assert_eq!(of(4, |lane| 4 * lane), (1, 1), "neighbours");
        assert_eq!(of(4, |_| 64), (1, 1), "broadcast");
        assert_eq!(of(4, |lane| 8 * lane), (2, 1), "every second word");
        assert_eq!(of(4, |lane| 128 * lane), (32, 1), "one bank");
        assert_eq!(of(4, |lane| 132 * lane), (1, 1), "padded column");
        assert_eq!(of(2, |lane| 2 * lane), (1, 1), "halves share words");
        assert_eq!(of(8, |lane| 8 * lane), (2, 2), "8 bytes");
        assert_eq!(of(16, |lane| 16 * lane), (4, 4), "16 bytes");
        assert_eq!(of(16, |lane| 128 * lane), (32, 4), "rows of 128 bytes");
    }
}
