//! Micro-batches of rows of about equal length.
//!
//! They are made as transformers' `LengthGroupedSampler` does it: a shuffled order is cut into mega-batches, which are
//! sorted by length and cut into micro-batches, so that rows meet others in every pass. There the micro-batches stay
//! sorted, and the loss goes up and down with the length; here they are shuffled again, and a step that adds several up
//! learns from rows of all lengths.
//!
//! A batch has no padding, grouped or not, so nothing is saved. Micro-batches differ more in their tokens than shuffled
//! rows make them; the largest of them is known, and comes first.

use std::cmp::Reverse;

use crate::rng::Rng;

/// Most micro-batches of a mega-batch; there are four mega-batches at least, as in transformers.
const MEGA_BATCH: usize = 50;

/// A random order of `rows`, each `batch_size` of which, counted from the first, are of about equal length; what does
/// not fill a micro-batch comes last, of any length. With `longest_first` the order begins with the longest rows, so
/// that no `batch_size` rows have more tokens than those.
pub(crate) fn group_by_length(
    mut rows: Vec<usize>,
    length: impl Fn(usize) -> usize,
    batch_size: usize,
    longest_first: bool,
    mut rng: Rng,
) -> Vec<usize> {
    let mut longest = 0;
    if longest_first {
        rows.sort_by_key(|row| Reverse(length(*row)));
        longest = batch_size.min(rows.len());
    }
    let (longest, rest) = rows.split_at_mut(longest);
    rng.shuffle(rest);
    let batches = rest.len() / batch_size;
    let (full, short) = rest.split_at_mut(batches * batch_size);
    for mega_batch in full.chunks_mut(batch_size * (batches / 4).clamp(1, MEGA_BATCH)) {
        mega_batch.sort_by_key(|row| length(*row));
    }
    let mut batches: Vec<&[usize]> = full.chunks(batch_size).collect();
    rng.shuffle(&mut batches);
    [&*longest, &batches.concat(), &*short].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Rng, group_by_length};

    fn group(rows: &[usize], lengths: &[usize], size: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let rng = Rng::new(seed, epoch);
        group_by_length(rows.to_vec(), |row| lengths[row], size, epoch == 0, rng)
    }

    proptest! {
        #[test]
        fn every_row_comes_as_often_as_it_is_given(
            copies in prop::collection::vec(0_usize..4, 0..60),
            lengths in prop::collection::vec(1_usize..20, 60),
            batch_size in prop_oneof![1_usize..9, Just(usize::MAX)],
            seed: u64,
            epoch in 0_u64..3,
        ) {
            let rows = copies.iter().enumerate();
            let rows: Vec<usize> = rows.flat_map(|(row, n)| std::iter::repeat_n(row, *n)).collect();
            let mut grouped = group(&rows, &lengths, batch_size, seed, epoch);
            grouped.sort_unstable();
            prop_assert_eq!(grouped, rows);
        }

        #[test]
        fn seed_and_epoch_decide_the_order(
            lengths in prop::collection::vec(1_usize..20, 24..60),
            batch_size in 1_usize..5,
            seed: u64,
            epoch in 0_u64..3,
        ) {
            let rows: Vec<usize> = (0..lengths.len()).collect();
            let order = group(&rows, &lengths, batch_size, seed, epoch);
            prop_assert_eq!(&group(&rows, &lengths, batch_size, seed, epoch), &order);
            prop_assert_ne!(&group(&rows, &lengths, batch_size, seed, epoch + 1), &order);
            prop_assert_ne!(&group(&rows, &lengths, batch_size, seed.wrapping_add(1), epoch), &order);
        }
    }

    /// Sorted mega-batches would make one slope each.
    #[test]
    fn learning_is_not_ordered_by_length() {
        let rows: Vec<usize> = (0..4000).collect();
        let order = group(&rows, &rows, 4, 7, 1);
        let firsts: Vec<usize> = order.iter().copied().step_by(4).collect();
        let rising = firsts.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!(
            (450..550).contains(&rising),
            "{rising} of 999 micro-batches have longer rows than the one before"
        );
    }
}
