//! Fields of a JSON object, with errors that name them.

use serde_json::Value;

use super::Object;
use crate::error::Problem;

/// A field that is neither missing nor null.
pub(super) fn get<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

pub(super) fn string(object: &Object, key: &str) -> Result<String, Problem> {
    string_at(object, key, key)
}

/// [`string`] of an object that lies at `path`.
pub(super) fn string_at(object: &Object, key: &str, path: &str) -> Result<String, Problem> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(Problem::field(path, format!("must be a string, not {}", kind(other)))),
        None => Err(Problem::field(path, "is missing; it must be a string")),
    }
}

/// A string that may be missing or null.
pub(super) fn optional_string(object: &Object, key: &str) -> Result<Option<String>, Problem> {
    get(object, key).map(|_| string(object, key)).transpose()
}

/// A list, or a string that holds one as JSON, which is how tables keep lists.
pub(super) fn list(object: &Object, key: &str) -> Result<Vec<Value>, Problem> {
    match object.get(key) {
        Some(value) => list_of(value, key),
        None => Err(Problem::field(key, "is missing; it must be a list")),
    }
}

pub(super) fn list_of(value: &Value, path: &str) -> Result<Vec<Value>, Problem> {
    match value {
        Value::Array(values) => Ok(values.clone()),
        Value::String(text) if text.trim_start().starts_with('[') => serde_json::from_str(text)
            .map_err(|error| {
                Problem::field(path, format!("is text, but not a list in JSON: {error}"))
            }),
        other => Err(Problem::field(path, format!("must be a list, not {}", kind(other)))),
    }
}

/// The beginning of a text, for a message.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
