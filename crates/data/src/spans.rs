//! Where the answers lie in a rendered conversation.
//!
//! Templates with `{% generation %}` blocks say it themselves. For the others: a conversation cut before its answer,
//! rendered with the generation prompt, is the beginning of the whole rendering, and the answer starts where it ends.

use std::ops::Range;

use crate::encode::TrainOn;
use crate::error::Problem;
use crate::rows::{Chat, Message, Role};
use crate::template::{ChatTemplate, Rendered};

/// A rendered conversation and its trained answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) text: String,
    /// What is learned, in order.
    pub(crate) answers: Vec<Answer>,
}

/// A trained answer in the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Byte range, through the end-of-turn token where there is one.
    pub(crate) span: Range<usize>,
    /// Length of that token; `None` when no special token closes the answer, so that an end must be added.
    pub(crate) end: Option<usize>,
}

/// Renders `chat` and locates the answers to learn. `ends` are the tokenizer's special tokens.
pub(crate) fn locate(
    template: &ChatTemplate,
    chat: &Chat,
    ends: &[String],
    train_on: TrainOn,
) -> Result<Located, Problem> {
    let Chat { messages, tools } = chat;
    let Rendered { mut text, generation } = template.render_marked(messages, tools, false)?;
    let assistants =
        messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant);
    let assistants: Vec<usize> = assistants.map(|(index, _)| index).collect();
    if let Some(blocks) = &generation
        && blocks.len() != assistants.len()
    {
        let reason = format!("the template marks {} answers of {}", blocks.len(), assistants.len());
        return Err(Problem::Unlocated {
            message: assistants.first().copied().unwrap_or(0),
            reason,
        });
    }
    let last = messages.iter().rposition(Message::is_trained);
    let mut answers = Vec::new();
    for (order, &index) in assistants.iter().enumerate() {
        let skipped = train_on == TrainOn::LastAnswer && Some(index) != last;
        if skipped || !messages[index].is_trained() {
            continue;
        }
        let whole = match &generation {
            Some(blocks) => through_end(&text, blocks[order].clone(), ends),
            None => answer(template, chat, index, &text, ends)?,
        };
        answers.push(trim_after_end(&text, whole, ends));
    }
    if let Some(Answer { span, end: None }) = answers.last()
        && messages.last().is_some_and(Message::is_trained)
    {
        text.truncate(span.end);
    }
    Ok(Located { text, answers })
}

/// A block that stops just short of the end token is extended over it: the end of each answer is learned. One that
/// has its end may stand before the token that begins the next turn, which is not.
fn through_end(text: &str, block: Range<usize>, ends: &[String]) -> Range<usize> {
    if ends.iter().any(|end| text[block.clone()].trim_end().ends_with(end.as_str())) {
        return block;
    }
    let after = &text[block.end..];
    let end = ends.iter().filter(|end| after.starts_with(end.as_str())).map(String::len).max();
    block.start..block.end + end.unwrap_or(0)
}

fn answer(
    template: &ChatTemplate,
    Chat { messages, tools }: &Chat,
    index: usize,
    text: &str,
    ends: &[String],
) -> Result<Range<usize>, Problem> {
    let unlocated = |reason: &str| Problem::Unlocated { message: index, reason: reason.to_owned() };
    let before = template.render(&messages[..index], tools, true)?;
    if !text.starts_with(&before) {
        return Err(unlocated(
            "the turns before it with the generation prompt are not how the conversation begins; \
             the template needs {% generation %} blocks around answers",
        ));
    }
    let start = before.len();
    let through = template.render(&messages[..=index], tools, false)?;
    if text.starts_with(&through) && through.len() >= start {
        return Ok(start..through.len());
    }
    // Some templates (Qwen3) write the last answer differently from earlier ones; then the answer itself must follow
    // the generation prompt, closed by a special token.
    let content = messages[index].text().trim();
    let rest = &text[start..];
    let lead = rest.len() - rest.trim_start().len();
    let content_end = lead + content.len();
    if rest[lead..].starts_with(content)
        && let Some(end) = ends.iter().find(|end| rest[content_end..].starts_with(end.as_str()))
    {
        return Ok(start..start + content_end + end.len());
    }
    Err(unlocated(
        "the template changes it when other turns follow; split the conversation into rows that end \
         with the answer to learn, or set \"train\": false on this message",
    ))
}

/// Cuts the whitespace after the answer's last special token, or after its last word when there is no such token.
fn trim_after_end(text: &str, span: Range<usize>, ends: &[String]) -> Answer {
    let trimmed = text[span.clone()].trim_end();
    let end = ends.iter().filter(|end| trimmed.ends_with(end.as_str())).map(String::len).max();
    Answer { span: span.start..span.start + trimmed.len(), end }
}
