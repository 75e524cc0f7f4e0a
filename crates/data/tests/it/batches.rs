//! Micro-batches and accumulation windows.

use data::{Batch, Dataset, Example, IGNORE};
use proptest::prelude::*;

fn example(line: usize, length: usize) -> Example {
    let input_ids: Vec<u32> = (0..length as u32).map(|at| line as u32 * 100 + at).collect();
    let labels = input_ids.iter().map(|id| if id % 3 == 0 { IGNORE } else { *id }).collect();
    Example { input_ids, labels, line }
}

#[test]
fn rows_lie_end_to_end_with_shifted_labels() {
    let first = Example { input_ids: vec![10, 11, 12], labels: vec![IGNORE, 11, 12], line: 1 };
    let second = Example { input_ids: vec![20, 21], labels: vec![20, 21], line: 2 };
    let batch = Batch::new([&first, &second]);
    assert_eq!(batch.input_ids, [10, 11, 12, 20, 21]);
    assert_eq!(batch.labels, [11, 12, IGNORE, 21, IGNORE]);
    assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
    assert_eq!(batch.seq_lens, [3, 2]);
    assert_eq!(batch.cu_seqlens(), [0, 3, 5]);
    assert_eq!((batch.tokens(), batch.trained_tokens()), (5, 3));
}

proptest! {
    #[test]
    fn windows_cover_each_example_once(
        lengths in prop::collection::vec(2_usize..9, 1..40),
        batch_size in 1_usize..5,
        accumulation in 1_usize..4,
        seed: u64,
    ) {
        let examples = lengths.iter().enumerate().map(|(line, length)| example(line, *length)).collect();
        let dataset = Dataset { examples, ..Dataset::default() };
        let order = dataset.epoch_order(seed, 0);
        let windows: Vec<_> = dataset.windows(order.clone(), batch_size, accumulation).collect();
        prop_assert_eq!(windows.len(), lengths.len().div_ceil(batch_size * accumulation));
        let batches: Vec<&Batch> = windows.iter().flat_map(|window| &window.micro_batches).collect();
        let expected: Vec<usize> = order.iter().map(|row| lengths[*row]).collect();
        let laid: Vec<usize> = batches.iter().flat_map(|batch| batch.seq_lens.clone()).collect();
        prop_assert_eq!(laid, expected);
        let mut lines: Vec<u32> = batches.iter()
            .flat_map(|batch| batch.input_ids.iter().zip(&batch.positions))
            .filter(|(_, position)| **position == 0)
            .map(|(id, _)| id / 100)
            .collect();
        lines.sort_unstable();
        prop_assert_eq!(lines, (0..lengths.len() as u32).collect::<Vec<_>>());
        let trained: usize = windows.iter().map(|window| window.trained_tokens).sum();
        prop_assert_eq!(trained, dataset.stats().trained_tokens);
        prop_assert!(windows.iter().all(|window| window.micro_batches.len() <= accumulation));
    }
}
