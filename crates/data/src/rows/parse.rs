//! One JSON object -> one row, with errors that name the field.

use serde_json::{Map, Value};

use super::{Chat, Completion, Content, Format, Message, Role, Tokens};
use crate::error::Problem;

type Object = Map<String, Value>;

/// The label value that Hugging Face tools write for "no loss here".
const IGNORED_LABEL: i64 = -100;

pub(super) fn object(text: &str) -> Result<Object, Problem> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Problem::Json { message: format!("found {}", kind(&other)) }),
        Err(error) => {
            let message = error.to_string();
            // The parser sees one line, so its own "line 1" would mislead.
            let message = message.split(" at line ").next().unwrap_or(&message);
            Err(Problem::Json { message: format!("{message}, column {}", error.column()) })
        }
    }
}

pub(super) fn format_of(object: &Object) -> Result<Format, Problem> {
    let marks =
        [("messages", Format::Chat), ("prompt", Format::Completion), ("input_ids", Format::Tokens)];
    let mut found = marks.iter().filter(|(key, _)| object.contains_key(*key));
    match (found.next(), found.next()) {
        (Some((_, format)), None) => Ok(*format),
        _ if object.is_empty() => Err(Problem::UnknownFormat { found: "no fields".to_owned() }),
        _ => {
            let names: Vec<String> = object.keys().map(|key| format!("`{key}`")).collect();
            Err(Problem::UnknownFormat { found: names.join(", ") })
        }
    }
}

/// Reads the format's own fields. Other top-level fields (ids, sources...) are of no concern, except those that would
/// change the text.
pub(super) fn content(object: &Object, format: Format) -> Result<Content, Problem> {
    match format {
        Format::Chat => chat(object).map(Content::Chat),
        Format::Completion => Ok(Content::Completion(Completion {
            prompt: string(object, "prompt", "prompt")?,
            completion: string(object, "completion", "completion")?,
        })),
        Format::Tokens => tokens(object).map(Content::Tokens),
    }
}

/// A conversation in a file of its own: an object with `messages`, or the list alone.
pub(super) fn conversation(text: &str) -> Result<Chat, Problem> {
    let value = serde_json::from_str(text)
        .map_err(|error| Problem::Conversation { message: error.to_string() })?;
    match value {
        Value::Object(object) => chat(&object),
        Value::Array(messages) => turns(&messages),
        other => Err(Problem::Conversation { message: format!("found {}", kind(&other)) }),
    }
}

fn chat(object: &Object) -> Result<Chat, Problem> {
    if object.contains_key("tools") {
        return Err(Problem::field(
            "tools",
            "tool definitions are not supported; remove the field",
        ));
    }
    turns(array(object, "messages")?)
}

fn turns(messages: &[Value]) -> Result<Chat, Problem> {
    if messages.is_empty() {
        return Err(Problem::field(
            "messages",
            "is empty; a conversation needs at least one message",
        ));
    }
    let messages = messages.iter().enumerate().map(|(index, value)| message(index, value));
    Ok(Chat { messages: messages.collect::<Result<_, _>>()? })
}

fn message(index: usize, value: &Value) -> Result<Message, Problem> {
    let path = format!("messages[{index}]");
    let Value::Object(object) = value else {
        return Err(Problem::field(
            path,
            format!("must be an object with `role` and `content`, not {}", kind(value)),
        ));
    };
    if let Some(key) =
        object.keys().find(|key| !["role", "content", "train"].contains(&key.as_str()))
    {
        return Err(Problem::field(
            format!("{path}.{key}"),
            "not supported; known are `role`, `content` and `train`",
        ));
    }
    let role_path = format!("{path}.role");
    let role = match string(object, "role", &role_path)?.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => {
            return Err(Problem::field(
                role_path,
                format!(
                    "unknown role \"{other}\"; known are \"system\", \"user\" and \"assistant\""
                ),
            ));
        }
    };
    let train = match object.get("train") {
        None => None,
        Some(Value::Bool(train)) if role == Role::Assistant || !train => Some(*train),
        Some(Value::Bool(_)) => {
            return Err(Problem::field(
                format!("{path}.train"),
                "only assistant messages can be trained",
            ));
        }
        Some(other) => {
            return Err(Problem::field(
                format!("{path}.train"),
                format!("must be true or false, not {}", kind(other)),
            ));
        }
    };
    Ok(Message { role, content: string(object, "content", &format!("{path}.content"))?, train })
}

fn tokens(object: &Object) -> Result<Tokens, Problem> {
    let ids = array(object, "input_ids")?;
    if ids.is_empty() {
        return Err(Problem::field("input_ids", "is empty"));
    }
    let ids = ids.iter().enumerate().map(|(index, value)| {
        token_id(value).ok_or_else(|| {
            Problem::field(
                format!("input_ids[{index}]"),
                format!("must be a token id, not {value}"),
            )
        })
    });
    let input_ids: Vec<u32> = ids.collect::<Result<_, _>>()?;
    let labels = match object.get("labels") {
        None | Some(Value::Null) => None,
        Some(_) => Some(labels(array(object, "labels")?, input_ids.len())?),
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
            let message = format!("must be a token id, -100 or null, not {value}");
            Problem::field(format!("labels[{index}]"), message)
        })
    });
    labels.collect()
}

/// The largest `u32` is kept out: it marks ignored labels.
fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX)
}

fn string(object: &Object, key: &str, path: &str) -> Result<String, Problem> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(Problem::field(path, format!("must be a string, not {}", kind(other)))),
        None => Err(Problem::field(path, "is missing; it must be a string")),
    }
}

fn array<'a>(object: &'a Object, key: &str) -> Result<&'a [Value], Problem> {
    match object.get(key) {
        Some(Value::Array(values)) => Ok(values),
        Some(other) => Err(Problem::field(key, format!("must be a list, not {}", kind(other)))),
        None => Err(Problem::field(key, "is missing; it must be a list")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
