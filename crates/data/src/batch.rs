//! Micro-batches without padding, and the windows that one optimiser step sums over.

use crate::encode::{Example, IGNORE};
use crate::rows::Place;

/// Rows laid end to end. A row attends to itself alone: `seq_lens` says where each begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all rows, flattened.
    pub input_ids: Vec<u32>,
    /// Shifted: at each token the id to predict next, or [`IGNORE`]. The last token of a row predicts nothing.
    pub labels: Vec<u32>,
    /// Position of each token in its row, from 0.
    pub positions: Vec<u32>,
    /// Tokens of each row.
    pub seq_lens: Vec<usize>,
    /// Where each row came from.
    pub places: Vec<Place>,
}

impl Batch {
    /// Lays `examples` end to end.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut batch = Self::default();
        for example in examples {
            let length = example.input_ids.len();
            batch.input_ids.extend(&example.input_ids);
            batch.labels.extend(example.labels.iter().skip(1));
            batch.labels.push(IGNORE);
            batch.positions.extend(0..length as u32);
            batch.seq_lens.push(length);
            batch.places.push(example.place.clone());
        }
        batch
    }

    /// Where rows begin and end: 0, then the running sum of `seq_lens`.
    pub fn cu_seqlens(&self) -> Vec<usize> {
        let ends = self.seq_lens.iter().scan(0, |sum, length| {
            *sum += length;
            Some(*sum)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Tokens the loss covers.
    pub fn trained_tokens(&self) -> usize {
        self.labels.iter().filter(|label| **label != IGNORE).count()
    }
}

/// The micro-batches of one optimiser step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// At least one.
    pub micro_batches: Vec<Batch>,
    /// Tokens the loss covers in all of them: what the summed loss is divided by.
    pub trained_tokens: usize,
}
