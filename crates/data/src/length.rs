//! Rows that are longer than allowed.

use serde::{Deserialize, Serialize};

use crate::encode::{EncodeOptions, Example};
use crate::error::{Error, Limit, Problem, Result};

/// What to do with a row that is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlength {
    /// Stop with an error that names the row.
    #[default]
    Error,
    /// Cut its end off.
    Truncate,
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
) -> Result<Fitted, Problem> {
    let tokens = example.input_ids.len();
    if tokens <= limit.tokens() {
        return Ok(Fitted::Whole(example));
    }
    match overlength {
        Overlength::Error => Err(Problem::TooLong { tokens, limit }),
        Overlength::Drop => Ok(Fitted::Dropped),
        Overlength::Truncate => {
            example.input_ids.truncate(limit.tokens());
            example.labels.truncate(limit.tokens());
            if example.trained_tokens() == 0 {
                let reason = format!(
                    "cutting the row's {tokens} tokens to {limit} leaves nothing of the answer"
                );
                return Err(Problem::AllMasked { reason });
            }
            Ok(Fitted::Cut(example))
        }
    }
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
