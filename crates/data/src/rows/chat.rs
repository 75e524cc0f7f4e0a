//! Conversations in `OpenAI`'s form, which is also what chat templates take.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Object, fields};
use crate::error::Problem;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The same, in the words of newer templates.
    Developer,
    /// The person.
    User,
    /// The model; its words are what is learned.
    Assistant,
    /// What a tool returned.
    Tool,
}

impl Role {
    /// As data files and templates spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; `None` where the message holds nothing but tool calls.
    pub content: Option<String>,
    /// Whether to learn this turn; by default assistant turns are learned and others are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<bool>,
    /// What else the template sees: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`...
    #[serde(flatten)]
    pub more: Object,
}

impl Message {
    /// A turn of words alone.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: Some(content.into()), train: None, more: Object::new() }
    }

    /// What is said; empty where that is nothing.
    pub fn text(&self) -> &str {
        self.content.as_deref().unwrap_or_default()
    }

    /// True when the loss covers this turn.
    pub fn is_trained(&self) -> bool {
        self.role == Role::Assistant && self.train != Some(false)
    }

    /// Names of the tools that are called.
    pub fn called(&self) -> impl Iterator<Item = &str> {
        let calls = self.more.get("tool_calls").and_then(Value::as_array);
        calls.into_iter().flatten().filter_map(|call| function(call).get("name")?.as_str())
    }
}

/// A conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Chat {
    /// The turns, at least one.
    pub messages: Vec<Message>,
    /// Tools that the model may call, as JSON schemas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
}

impl From<Vec<Message>> for Chat {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, tools: Vec::new() }
    }
}

pub(super) fn row(object: &Object) -> Result<Chat, Problem> {
    let messages = turns(&fields::list(object, "messages")?, "messages")?;
    Ok(Chat { messages, tools: tools(object)? })
}

/// A conversation in a file of its own: an object with `messages`, or the list alone.
pub(super) fn conversation(text: &str) -> Result<Chat, Problem> {
    let value = serde_json::from_str(text)
        .map_err(|error| Problem::Conversation { message: error.to_string() })?;
    match value {
        Value::Object(object) => row(&object),
        Value::Array(messages) => turns(&messages, "messages").map(Chat::from),
        other => Err(Problem::Conversation { message: format!("found {}", fields::kind(&other)) }),
    }
}

/// `tools`: a list of objects, or a string that holds one as JSON.
pub(super) fn tools(object: &Object) -> Result<Vec<Value>, Problem> {
    let tools = match fields::get(object, "tools") {
        None => return Ok(Vec::new()),
        // What tables keep where there are none.
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(value) => fields::list_of(value, "tools")?,
    };
    let mut tools = tools;
    for (index, tool) in tools.iter_mut().enumerate() {
        let path = format!("tools[{index}]");
        if !tool.is_object() {
            let message = format!("must be an object, not {}", fields::kind(tool));
            return Err(Problem::field(path, message));
        }
        remove_nulls(tool);
        if !function(tool).get("name").is_some_and(Value::is_string) {
            return Err(Problem::field(format!("{path}.function.name"), "is missing"));
        }
    }
    Ok(tools)
}

/// A tool or a call in either of its forms: `{"type": "function", "function": {...}}` or the inner object alone.
fn function(value: &Value) -> &Value {
    value.get("function").filter(|function| function.is_object()).unwrap_or(value)
}

pub(super) fn turns(messages: &[Value], path: &str) -> Result<Vec<Message>, Problem> {
    if messages.is_empty() {
        return Err(Problem::field(path, "is empty; a conversation needs at least one message"));
    }
    let messages = messages.iter().enumerate();
    messages.map(|(index, value)| message(value, &format!("{path}[{index}]"))).collect()
}

fn message(value: &Value, path: &str) -> Result<Message, Problem> {
    let Value::Object(object) = value else {
        let message =
            format!("must be an object with `role` and `content`, not {}", fields::kind(value));
        return Err(Problem::field(path, message));
    };
    let role_path = format!("{path}.role");
    let name = fields::string_at(object, "role", &role_path)?;
    let role = Role::named(&name).ok_or_else(|| {
        let message = format!(
            "unknown role \"{}\"; known are \"system\", \"developer\", \"user\", \"assistant\" and \"tool\"",
            fields::short(&name)
        );
        Problem::field(role_path, message)
    })?;
    let train = train(object, role, path)?;
    let mut more = Object::new();
    for (key, value) in object {
        let taken = ["role", "content", "train", "weight"].contains(&key.as_str());
        // Tables fill the fields that a message does not have with null, which templates take for there.
        if !taken && !value.is_null() {
            more.insert(key.clone(), value.clone());
        }
    }
    if more.contains_key("function_call") {
        let message = "is OpenAI's old form of tool calls; write it as `tool_calls`";
        return Err(Problem::field(format!("{path}.function_call"), message));
    }
    if let Some(calls) = more.get_mut("tool_calls") {
        tool_calls(calls, &format!("{path}.tool_calls"))?;
    }
    if more.get("tool_calls").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        more.remove("tool_calls");
    }
    let content = content(object, !more.contains_key("tool_calls"), path)?;
    if role == Role::Assistant
        && train != Some(false)
        && content.as_deref() == Some("")
        && more.is_empty()
    {
        let message = "is empty; an answer to learn needs text (or set \"train\": false)";
        return Err(Problem::field(format!("{path}.content"), message));
    }
    Ok(Message { role, content, train, more })
}

/// Text, or a list of text parts, which are joined.
fn content(object: &Object, required: bool, path: &str) -> Result<Option<String>, Problem> {
    let path = format!("{path}.content");
    match object.get("content") {
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate().map(|(index, part)| {
                let path = format!("{path}[{index}]");
                match part.get("type").and_then(Value::as_str) {
                    Some("text") => match part.get("text") {
                        Some(Value::String(text)) => Ok(text.as_str()),
                        _ => Err(Problem::field(format!("{path}.text"), "must be a string")),
                    },
                    _ => Err(Problem::field(path, "only parts of type \"text\" can be learned")),
                }
            });
            parts.collect::<Result<String, _>>().map(Some)
        }
        None | Some(Value::Null) if !required => Ok(None),
        _ => fields::string_at(object, "content", &path).map(Some),
    }
}

/// `train`: true or false, or `OpenAI`'s `weight`: 0 or 1.
fn train(object: &Object, role: Role, path: &str) -> Result<Option<bool>, Problem> {
    let flag = match fields::get(object, "train") {
        None => None,
        Some(Value::Bool(train)) => Some(("train", *train)),
        Some(other) => {
            let message = format!("must be true or false, not {}", fields::kind(other));
            return Err(Problem::field(format!("{path}.train"), message));
        }
    };
    let weight = match fields::get(object, "weight") {
        None => None,
        Some(value) if value.as_f64() == Some(0.0) => Some(("weight", false)),
        Some(value) if value.as_f64() == Some(1.0) => Some(("weight", true)),
        Some(_) => {
            let message = "must be 0 (not learned) or 1; turns are learned or not";
            return Err(Problem::field(format!("{path}.weight"), message));
        }
    };
    match (flag, weight) {
        (Some((_, flag)), Some((_, weight))) if flag != weight => {
            Err(Problem::field(format!("{path}.weight"), "contradicts `train`"))
        }
        (Some(("train", true)), _) if role != Role::Assistant => {
            Err(Problem::field(format!("{path}.train"), "only assistant messages can be trained"))
        }
        (flag, weight) => Ok(flag.or(weight).map(|(_, train)| train)),
    }
}

/// Checks tool calls, and takes arguments that are JSON in a string apart: templates expect them as objects.
fn tool_calls(calls: &mut Value, path: &str) -> Result<(), Problem> {
    let mut list = fields::list_of(calls, path)?;
    for (index, call) in list.iter_mut().enumerate() {
        let path = format!("{path}[{index}]");
        remove_nulls(call);
        if !function(call).get("name").is_some_and(Value::is_string) {
            return Err(Problem::field(format!("{path}.function.name"), "is missing"));
        }
        let inner = call.pointer("/function").is_some_and(Value::is_object);
        let function = if inner { &mut call["function"] } else { call };
        match function.get_mut("arguments") {
            Some(Value::String(text)) => {
                let arguments = serde_json::from_str::<Object>(text).map_err(|error| {
                    let message = format!("is text, but not an object in JSON: {error}");
                    Problem::field(format!("{path}.function.arguments"), message)
                })?;
                function["arguments"] = Value::Object(arguments);
            }
            Some(Value::Object(_)) | None => {}
            Some(other) => {
                let message = format!("must be an object, not {}", fields::kind(other));
                return Err(Problem::field(format!("{path}.function.arguments"), message));
            }
        }
    }
    *calls = Value::Array(list);
    Ok(())
}

/// Tables give every object the fields of all, null where it has none.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}
