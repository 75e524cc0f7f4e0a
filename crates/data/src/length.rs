//! Rows that are longer than allowed.

use serde::{Deserialize, Serialize};

use crate::encode::{EncodeOptions, Example};
use crate::error::{Error, Limit, Problem, Result};

/// What to do with a row that is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlength {
    /// Stop with an error that names the row.
    #[default]
    Error,
    /// Cut its end off, and with it the token that ends the answer.
    #[serde(alias = "truncate")]
    TruncateRight,
    /// Cut its beginning off, but for the token that begins a text.
    TruncateLeft,
    /// Leave it out; [`crate::Dataset::dropped`] counts.
    Drop,
}

/// A row after the length policy.
pub(crate) enum Fitted {
    Whole(Example),
    Cut(Example),
    Dropped,
}

/// Applies the policy to a row above the limit.
pub(crate) fn fit(
    mut example: Example,
    limit: Limit,
    overlength: Overlength,
    bos: Option<u32>,
) -> Result<Fitted, Problem> {
    let tokens = example.input_ids.len();
    if tokens <= limit.tokens() {
        return Ok(Fitted::Whole(example));
    }
    match overlength {
        Overlength::Error => return Err(Problem::TooLong { tokens, limit }),
        Overlength::Drop => return Ok(Fitted::Dropped),
        Overlength::TruncateRight => {
            example.input_ids.truncate(limit.tokens());
            example.labels.truncate(limit.tokens());
        }
        Overlength::TruncateLeft => {
            let kept = usize::from(example.input_ids.first().copied() == bos && bos.is_some());
            let cut = kept..kept + tokens - limit.tokens();
            example.input_ids.drain(cut.clone());
            example.labels.drain(cut);
        }
    }
    if example.trained_tokens() == 0 {
        let reason =
            format!("cutting the row's {tokens} tokens to {limit} leaves nothing of the answer");
        return Err(Problem::AllMasked { reason });
    }
    Ok(Fitted::Cut(example))
}

/// The limit that applies, once the settings make sense.
pub(crate) fn limit(options: &EncodeOptions) -> Result<Limit> {
    let setting = |message| Err(Error::Setting { name: "max_seq_len", message });
    match options.max_seq_len {
        None => Ok(Limit::Context(options.context)),
        Some(tokens) if tokens > options.context => setting(format!(
            "{tokens} is more than the model's context of {} tokens",
            options.context
        )),
        Some(tokens) if tokens < 2 => {
            setting(format!("{tokens} leaves no token to predict; give at least 2"))
        }
        Some(tokens) => Ok(Limit::MaxSeqLen(tokens)),
    }
}
