//! Loss on rows that are not learned.

use std::ops::ControlFlow;

use anyhow::Result;
use autograd::{Precision, Tape};
use data::{Batch, Dataset};
use kernels::Backend;
use models::decoder::{Adapter, Decoder, ForwardOptions};
use serde::{Deserialize, Serialize};

/// What an evaluation found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean negative log-likelihood of the trained tokens.
    pub loss: f64,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Those of them that the loss covers.
    pub trained_tokens: usize,
}

impl Evaluation {
    /// `exp(loss)`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Mean loss of `dataset`'s trained tokens; `on_rows` hears the number of rows done, and may break off: `None`.
pub fn evaluate<K: Backend>(
    decoder: &Decoder<K>,
    adapter: Option<&Adapter<K>>,
    dataset: &Dataset,
    batch_size: usize,
    precision: Precision,
    mut on_rows: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Evaluation>> {
    let (mut sum, mut rows) = (0.0, 0);
    for batch in dataset.batches(batch_size) {
        let batch = batch?;
        sum += batch_loss(decoder, adapter, &batch, precision)?;
        rows += batch.seq_lens.len();
        if on_rows(rows).is_break() {
            return Ok(None);
        }
    }
    let stats = dataset.stats();
    Ok(Some(Evaluation {
        loss: sum / stats.trained_tokens as f64,
        tokens: stats.tokens,
        trained_tokens: stats.trained_tokens,
    }))
}

/// Summed loss of a batch's trained tokens.
pub(crate) fn batch_loss<K: Backend>(
    decoder: &Decoder<K>,
    adapter: Option<&Adapter<K>>,
    batch: &Batch,
    precision: Precision,
) -> Result<f64> {
    let inputs = decoder.inputs(&batch.input_ids, &batch.seq_lens)?;
    let mut tape = Tape::inference(decoder.backend(), precision);
    let hidden = decoder.hidden(&mut tape, &inputs, adapter, ForwardOptions::default())?;
    Ok(decoder.losses(&mut tape, &hidden, &batch.labels, 1.0)?.sum())
}
