//! What the model answers to a few rows to judge by, before the first step and after the last.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use autograd::Precision;
use data::score::Scores;
use data::{Dataset, Example, IGNORE};
use kernels::Backend;
use models::decoder::{Adapter, Decoder};
use models::generate::{GenerateOptions, Sampling, generate};
use models::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::stop::Stops;

/// Tokens that an answer may have beyond the longest expected one, so that one that does not end shows.
const SPARE: usize = 8;

/// Rows among which those with a prompt and an answer are looked for.
const LOOKED_AT: usize = 1000;

/// A row as it is shown, with the answers that it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Where the row is from.
    pub place: String,
    /// All before its last answer, without special tokens.
    pub prompt: String,
    /// Its last answer.
    pub expected: String,
    /// Answer before the first step.
    pub before: Option<String>,
    /// Answer after the last step.
    pub after: Option<String>,
}

/// Prompts to answer, all in one batch.
#[derive(Debug, Clone)]
pub struct Prompts {
    ids: Vec<Vec<u32>>,
    rows: Vec<Sample>,
    /// Rows whose expected answer has no more tokens than an answer may: the others can't be answered right.
    scored: Vec<bool>,
    stop_tokens: Vec<u32>,
    tokenizer: Tokenizer,
    max_new_tokens: usize,
}

impl Prompts {
    /// The first `count` rows of `dataset` that are a prompt and an answer, to be answered in at most `most` tokens.
    pub fn of(
        dataset: &Dataset,
        (count, most): (usize, usize),
        tokenizer: &Tokenizer,
        stop_tokens: &[u32],
    ) -> Result<Self> {
        let (mut ids, mut rows, mut scored, mut longest) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for row in 0..dataset.len().min(LOOKED_AT) {
            if ids.len() == count {
                break;
            }
            let example = dataset.example(row)?;
            let Some((prompt, answer)) = last_answer(&example) else { continue };
            longest = longest.max(answer.len());
            scored.push(answer.len() <= most);
            rows.push(Sample {
                place: example.place.to_string(),
                prompt: tokenizer.decode(prompt, true)?,
                expected: tokenizer.decode(answer, true)?,
                before: None,
                after: None,
            });
            ids.push(prompt.to_vec());
        }
        let (stop_tokens, tokenizer) = (stop_tokens.to_vec(), tokenizer.clone());
        let max_new_tokens = most.min(longest + SPARE);
        Ok(Self { ids, rows, scored, stop_tokens, tokenizer, max_new_tokens })
    }

    /// Whether there is nothing to answer.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The rows, without answers.
    pub(super) fn rows(&self) -> &[Sample] {
        &self.rows
    }

    /// How good answers to the rows are, of the rows that can be answered in full; `None` where there are none.
    pub(super) fn scores(&self, answers: &[String]) -> Option<Scores> {
        let all = answers.iter().zip(&self.rows).zip(&self.scored);
        let scored = all.filter(|(_, scored)| **scored);
        Scores::of(scored.map(|((answer, row), _)| (answer.as_str(), row.expected.as_str())))
    }

    /// The likeliest answers; `None` when a request to stop broke them off.
    pub(crate) fn answer<K: Backend>(
        &self,
        decoder: &Decoder<K>,
        adapter: &Adapter<K>,
        precision: Precision,
        stops: &Stops,
    ) -> Result<Option<Vec<String>>> {
        let mut stopped = false;
        let texts = self.generate(decoder, adapter, precision, || {
            stopped |= stops.requested(Duration::ZERO).is_some();
            stopped
        })?;
        if stopped {
            return Ok(None);
        }
        let texts = texts.iter().map(|text| Ok(self.tokenizer.decode(text, true)?));
        texts.collect::<Result<_>>().map(Some)
    }

    /// The part that takes most memory: the prompts, over a cache for whole answers.
    pub(crate) fn rehearse<K: Backend>(
        &self,
        decoder: &Decoder<K>,
        adapter: &Adapter<K>,
        precision: Precision,
    ) -> Result<()> {
        self.generate(decoder, adapter, precision, || true)?;
        Ok(())
    }

    fn generate<K: Backend>(
        &self,
        decoder: &Decoder<K>,
        adapter: &Adapter<K>,
        precision: Precision,
        mut stop: impl FnMut() -> bool,
    ) -> Result<Vec<Vec<u32>>> {
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampling: Sampling::GREEDY,
            stop_tokens: self.stop_tokens.clone(),
            precision,
        };
        let on_token =
            |_, _| if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        Ok(generate(decoder, Some(adapter), &self.ids, &options, on_token)?)
    }
}

/// All before the last answer, and the answer; `None` where one of them has no tokens.
fn last_answer(example: &Example) -> Option<(&[u32], &[u32])> {
    let trained = |label: &u32| *label != IGNORE;
    let end = example.labels.iter().rposition(trained)? + 1;
    let start = example.labels[..end].iter().rposition(|label| !trained(label))? + 1;
    let ids = &example.input_ids;
    Some((&ids[..start], &ids[start..end]))
}

/// Reads what [`write()`] wrote; nothing where there is no such file.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    let named = || path.display().to_string();
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        text => serde_json::from_slice(&text.with_context(named)?).with_context(named),
    }
}

/// Writes samples in JSON.
pub fn write(path: &Path, samples: &[Sample]) -> Result<()> {
    Ok(models::weights::write_bytes(path, &serde_json::to_vec_pretty(samples)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(labels: &[u32]) -> Example {
        let input_ids = (10..).take(labels.len()).collect();
        Example { input_ids, labels: labels.to_vec(), place: data::rows::Place::default() }
    }

    #[test]
    fn the_last_answer_is_what_is_asked_for() {
        let x = IGNORE;
        let found = |labels: &[u32]| {
            let example = example(labels);
            last_answer(&example).map(|(prompt, answer)| (prompt.to_vec(), answer.to_vec()))
        };
        assert_eq!(found(&[x, x, 1, 1]), Some((vec![10, 11], vec![12, 13])));
        assert_eq!(found(&[x, 1, x, 1, 1, x]), Some((vec![10, 11, 12], vec![13, 14])));
        assert_eq!(found(&[1, 1]), None, "a text has no prompt");
        assert_eq!(found(&[x, x]), None);
    }
}
