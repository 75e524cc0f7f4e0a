//! Pre-tokenised rows.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Object, fields};
use crate::error::Problem;

/// The label value that Hugging Face tools write for "no loss here".
const IGNORED_LABEL: i64 = -100;

/// A row of token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The ids.
    pub input_ids: Vec<u32>,
    /// One entry per id, not shifted; `None` where the loss skips it. Absent: all ids are learned.
    pub labels: Option<Vec<Option<u32>>>,
}

pub(super) fn row(object: &Object) -> Result<Tokens, Problem> {
    let ids = fields::list(object, "input_ids")?;
    if ids.is_empty() {
        return Err(Problem::field("input_ids", "is empty"));
    }
    let ids = ids.iter().enumerate().map(|(index, value)| {
        token_id(value).ok_or_else(|| {
            Problem::field(
                format!("input_ids[{index}]"),
                format!("must be a token id, not {}", shown(value)),
            )
        })
    });
    let input_ids: Vec<u32> = ids.collect::<Result<_, _>>()?;
    let labels = match fields::get(object, "labels") {
        None => None,
        Some(value) => Some(labels(&fields::list_of(value, "labels")?, input_ids.len())?),
    };
    Ok(Tokens { input_ids, labels })
}

fn labels(values: &[Value], expected: usize) -> Result<Vec<Option<u32>>, Problem> {
    if values.len() != expected {
        let message =
            format!("has {} entries but input_ids has {expected}; they must pair up", values.len());
        return Err(Problem::field("labels", message));
    }
    let labels = values.iter().enumerate().map(|(index, value)| {
        if value.is_null() || value.as_i64() == Some(IGNORED_LABEL) {
            return Ok(None);
        }
        token_id(value).map(Some).ok_or_else(|| {
            let message = format!("must be a token id, -100 or null, not {}", shown(value));
            Problem::field(format!("labels[{index}]"), message)
        })
    });
    labels.collect()
}

/// The largest `u32` is kept out: it marks ignored labels.
fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX)
}

/// Numbers as they are, of the rest only the kind: it may be large.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => fields::kind(other).to_owned(),
    }
}
