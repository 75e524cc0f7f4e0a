//! `ShareGPT` conversations: `{"conversations": [{"from": "human", "value": ...}, ...]}`.

use serde_json::{Value, json};

use super::chat::{self, Chat, Message, Role};
use super::{Object, fields};
use crate::error::Problem;

const LIST: &str = "conversations";

pub(super) fn row(object: &Object) -> Result<Chat, Problem> {
    let mut messages = turns(&fields::list(object, LIST)?, LIST)?;
    if let Some(system) = fields::optional_string(object, "system")?.filter(|text| !text.is_empty())
    {
        messages.insert(0, Message::new(Role::System, system));
    }
    Ok(Chat { messages, tools: chat::tools(object)? })
}

/// The turn in the form of `messages`.
fn message(turn: &Value, path: &str) -> Result<Value, Problem> {
    let Value::Object(turn) = turn else {
        let message =
            format!("must be an object with `from` and `value`, not {}", fields::kind(turn));
        return Err(Problem::field(path, message));
    };
    let from = fields::string_at(turn, "from", &format!("{path}.from"))?;
    let value = fields::string_at(turn, "value", &format!("{path}.value"))?;
    let mut message = match from.as_str() {
        "system" => json!({"role": "system", "content": value}),
        "human" | "user" => json!({"role": "user", "content": value}),
        "gpt" | "assistant" | "model" | "bot" | "chatgpt" | "bing" | "bard" => {
            json!({"role": "assistant", "content": value})
        }
        "observation" | "tool" | "function_response" => json!({"role": "tool", "content": value}),
        "function_call" => call(&value, path)?,
        other => {
            let message = format!(
                "unknown speaker \"{}\"; known are \"system\", \"human\", \"gpt\", \"function_call\" and \
                 \"observation\"",
                fields::short(other)
            );
            return Err(Problem::field(format!("{path}.from"), message));
        }
    };
    for key in ["train", "weight"] {
        if let Some(value) = fields::get(turn, key) {
            // Many sets give a weight of 0 to all but the answers; a question of weight 1 is as little learned.
            if message["role"] == "assistant" {
                message[key] = value.clone();
            }
        }
    }
    Ok(message)
}

/// A turn that is one call, or a list of them, as JSON.
fn call(text: &str, path: &str) -> Result<Value, Problem> {
    let call: Value = serde_json::from_str(text).map_err(|error| {
        Problem::field(format!("{path}.value"), format!("is no tool call in JSON: {error}"))
    })?;
    let calls = if let Value::Array(calls) = call { calls } else { vec![call] };
    let calls: Vec<Value> =
        calls.into_iter().map(|call| json!({"type": "function", "function": call})).collect();
    Ok(json!({"role": Role::Assistant.name(), "content": null, "tool_calls": calls}))
}

/// Turns in this form, or in that of `messages`.
pub(super) fn turns(values: &[Value], path: &str) -> Result<Vec<Message>, Problem> {
    if values.first().is_some_and(|turn| turn.get("from").is_some()) {
        let messages = values.iter().enumerate();
        let messages: Vec<Value> = messages
            .map(|(index, turn)| message(turn, &format!("{path}[{index}]")))
            .collect::<Result<_, _>>()?;
        return chat::turns(&messages, path);
    }
    chat::turns(values, path)
}
