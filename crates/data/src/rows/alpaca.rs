//! Alpaca rows: an instruction, perhaps an input to it, and the output.

use serde_json::Value;

use super::chat::{Chat, Message, Role};
use super::{Object, fields};
use crate::error::Problem;

/// The conversation: system, earlier turns, the question, the answer. The parts of a question with an input are kept
/// as `instruction` and `input` beside the whole, for templates that set them apart as Alpaca's own does.
pub(super) fn row(object: &Object) -> Result<Chat, Problem> {
    let instruction = fields::string(object, "instruction")?;
    let output = fields::string(object, "output")?;
    if output.is_empty() {
        return Err(Problem::field("output", "is empty; an answer to learn needs text"));
    }
    let mut messages = Vec::new();
    if let Some(system) = fields::optional_string(object, "system")?.filter(|text| !text.is_empty())
    {
        messages.push(Message::new(Role::System, system));
    }
    messages.extend(history(object)?);
    messages.push(
        match fields::optional_string(object, "input")?.filter(|text| !text.is_empty()) {
            None => Message::new(Role::User, instruction),
            Some(input) => {
                let mut message = Message::new(Role::User, format!("{instruction}\n\n{input}"));
                message.more.insert("instruction".to_owned(), instruction.into());
                message.more.insert("input".to_owned(), input.into());
                message
            }
        },
    );
    messages.push(Message::new(Role::Assistant, output));
    Ok(messages.into())
}

/// Earlier turns: a list of pairs of a question and an answer.
fn history(object: &Object) -> Result<Vec<Message>, Problem> {
    let Some(value) = fields::get(object, "history") else { return Ok(Vec::new()) };
    let mut messages = Vec::new();
    for (index, pair) in fields::list_of(value, "history")?.iter().enumerate() {
        let pair = pair.as_array().map(Vec::as_slice);
        let Some([Value::String(question), Value::String(answer)]) = pair else {
            let message = "must be a pair of strings, question and answer";
            return Err(Problem::field(format!("history[{index}]"), message));
        };
        messages.push(Message::new(Role::User, question));
        messages.push(Message::new(Role::Assistant, answer));
    }
    Ok(messages)
}
