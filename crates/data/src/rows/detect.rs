//! Which format a row has.

use super::{Format, Object, fields};
use crate::error::Problem;

/// The fields that a row of each format must have.
const REQUIRED: [(Format, &[&str]); 7] = [
    (Format::Chat, &["messages"]),
    (Format::ShareGpt, &["conversations"]),
    (Format::Preference, &["chosen", "rejected"]),
    (Format::Alpaca, &["instruction", "output"]),
    (Format::Completion, &["prompt", "completion"]),
    (Format::Tokens, &["input_ids"]),
    (Format::Text, &["text"]),
];

/// Fields that a message names.
const NAMED: usize = 12;

/// The one format whose fields the row has.
///
/// A `text` beside other fields is how many sets keep what they were rendered to, so it counts only alone. Where no
/// format is complete, the one that is begun is named, so that the error says what is missing.
pub(super) fn format_of(object: &Object) -> Result<Format, Problem> {
    let complete =
        |(_, fields): &&(Format, &[&str])| fields.iter().all(|f| object.contains_key(*f));
    let begun = |(_, fields): &&(Format, &[&str])| fields.iter().any(|f| object.contains_key(*f));
    let mut fitting: Vec<Format> = REQUIRED.iter().filter(complete).map(|(f, _)| *f).collect();
    if fitting.len() > 1 {
        fitting.retain(|format| *format != Format::Text);
    }
    if fitting.is_empty() {
        fitting = REQUIRED.iter().filter(begun).map(|(format, _)| *format).collect();
    }
    match fitting.as_slice() {
        [format] => Ok(*format),
        [] => Err(Problem::UnknownFormat { found: names(object) }),
        several => Err(Problem::AmbiguousFormat {
            found: names(object),
            fitting: several.iter().map(Format::to_string).collect::<Vec<_>>().join(", "),
        }),
    }
}

fn names(object: &Object) -> String {
    if object.is_empty() {
        return "no fields".to_owned();
    }
    let names = object.keys().take(NAMED).map(|key| format!("`{}`", fields::short(key)));
    let names = names.collect::<Vec<_>>().join(", ");
    if object.len() > NAMED { format!("{names} and {} more", object.len() - NAMED) } else { names }
}
