//! What a template leaves out of a conversation.

use serde::{Deserialize, Serialize};

use crate::rows::{Chat, Message};

/// A part of a conversation that the rendered text does not show, so that nothing can be learned from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unseen {
    /// A tool that the model may call.
    Tool,
    /// A tool call of message number.
    Call(usize),
    /// The words of message number.
    Words(usize),
}

/// The first such part. Templates trim what is said, so the words are looked for without the spaces around them.
pub(crate) fn unseen(chat: &Chat, text: &str) -> Option<Unseen> {
    let hidden = |needle: &str| !text.contains(needle.trim());
    let tool = |tool: &serde_json::Value| {
        let name = tool.pointer("/function/name").or_else(|| tool.get("name"));
        name.and_then(serde_json::Value::as_str).is_some_and(hidden)
    };
    if chat.tools.iter().any(tool) {
        return Some(Unseen::Tool);
    }
    let messages = || chat.messages.iter().enumerate();
    let call = messages().find(|(_, message)| message.called().any(hidden));
    if let Some((index, _)) = call {
        return Some(Unseen::Call(index));
    }
    let words = messages().find(|(_, message)| match parts(message) {
        Some(parts) => parts.into_iter().any(hidden),
        None => hidden(message.text()),
    });
    words.map(|(index, _)| Unseen::Words(index))
}

/// What an Alpaca question is made of, which templates may set apart.
fn parts(message: &Message) -> Option<[&str; 2]> {
    let part = |key: &str| message.more.get(key)?.as_str();
    Some([part("instruction")?, part("input")?])
}
