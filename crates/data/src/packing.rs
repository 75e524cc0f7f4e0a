//! Rows packed into bins of a number of tokens.
//!
//! A batch has no padding, packed or not; what packing evens out is its size. Without it a batch is a number of rows,
//! so short rows make small batches and the longest rows decide what memory must hold. A bin is full whatever its rows
//! are. Rows of one bin stay apart: each attends to itself alone and counts its positions from 0.

use std::collections::BTreeMap;

/// Best fit decreasing: the longest item first, each into the fullest bin that still holds it.
///
/// `items` are pairs of an item and its length, which must not exceed `capacity`. Equal lengths keep their order, and
/// how full the bins get depends on the lengths alone.
pub(crate) fn best_fit_decreasing(
    items: impl IntoIterator<Item = (usize, usize)>,
    capacity: usize,
) -> Vec<Vec<usize>> {
    let mut items: Vec<(usize, usize)> = items.into_iter().collect();
    items.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // Bins by the room left in them.
    let mut room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (item, length) in items {
        debug_assert!(length <= capacity, "{length} tokens in bins of {capacity}");
        let (bin, left) = if let Some((&left, fitting)) = room.range_mut(length..).next() {
            let bin = fitting.pop().expect("emptied entries are removed");
            if fitting.is_empty() {
                room.remove(&left);
            }
            (bin, left)
        } else {
            bins.push(Vec::new());
            (bins.len() - 1, capacity)
        };
        bins[bin].push(item);
        room.entry(left.saturating_sub(length)).or_default().push(bin);
    }
    bins
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
        best_fit_decreasing(lengths.iter().copied().enumerate(), capacity)
    }

    /// The definition, without an index.
    fn reference(lengths: &[usize], capacity: usize) -> usize {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let mut fill: Vec<usize> = Vec::new();
        for length in sorted {
            let fitting = fill.iter_mut().filter(|fill| **fill + length <= capacity);
            match fitting.max_by_key(|fill| **fill) {
                Some(fullest) => *fullest += length,
                None => fill.push(length),
            }
        }
        fill.len()
    }

    #[test]
    fn the_fullest_bin_that_fits_is_taken() {
        assert_eq!(pack(&[2, 5, 7, 3, 3], 10), [vec![2, 3], vec![1, 4, 0]]);
        assert_eq!(pack(&[], 10), Vec::<Vec<usize>>::new());
    }

    proptest! {
        #[test]
        fn bins_hold_every_item_once_and_no_more_than_they_can(
            lengths in prop::collection::vec(1_usize..=16, 0..80),
            rotation in 0_usize..80,
        ) {
            let bins = pack(&lengths, 16);
            for bin in &bins {
                prop_assert!(bin.iter().map(|item| lengths[*item]).sum::<usize>() <= 16);
            }
            let mut items = bins.concat();
            items.sort_unstable();
            prop_assert_eq!(items, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(bins.len(), reference(&lengths, 16));
            let mut rotated = lengths.clone();
            rotated.rotate_left(rotation.min(lengths.len()));
            prop_assert_eq!(pack(&rotated, 16).len(), bins.len());
        }
    }
}
