//! Where the answers lie in a rendered conversation.
//!
//! Templates with `{% generation %}` blocks say it themselves. For the others: a conversation cut before its answer,
//! rendered with the generation prompt, is the beginning of the whole rendering, and the answer starts where it ends.

use std::ops::Range;

use crate::error::Problem;
use crate::rows::{Message, Role};
use crate::template::{ChatTemplate, Rendered};

/// A rendered conversation and its trained answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) text: String,
    /// Byte ranges of what is learned, each through its end-of-turn token, in order.
    pub(crate) answers: Vec<Range<usize>>,
    /// True when the text ends with an answer that no special token closes, so that an end must be appended.
    pub(crate) needs_end: bool,
}

/// Renders `messages` and locates the answers to learn. `ends` are the tokenizer's special tokens, `eos` among them.
pub(crate) fn locate(
    template: &ChatTemplate,
    messages: &[Message],
    ends: &[String],
    eos: Option<&str>,
) -> Result<Located, Problem> {
    let Rendered { mut text, generation } = template.render_marked(messages, false)?;
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
    let mut answers = Vec::new();
    let mut needs_end = false;
    for (order, &index) in assistants.iter().enumerate() {
        if !messages[index].is_trained() {
            continue;
        }
        let whole = match &generation {
            Some(blocks) => through_end(&text, blocks[order].clone(), eos),
            None => answer(template, messages, index, &text, ends)?,
        };
        let (span, closed) = trim_after_end(&text, whole, ends);
        needs_end = !closed && index + 1 == messages.len();
        answers.push(span);
    }
    if needs_end && let Some(last) = answers.last() {
        text.truncate(last.end);
    }
    Ok(Located { text, answers, needs_end })
}

/// A block that stops just short of the end token is extended over it: the end of each answer is learned.
fn through_end(text: &str, block: Range<usize>, eos: Option<&str>) -> Range<usize> {
    let end = eos
        .filter(|eos| text[block.end..].starts_with(eos))
        .map_or(block.end, |eos| block.end + eos.len());
    block.start..end
}

fn answer(
    template: &ChatTemplate,
    messages: &[Message],
    index: usize,
    text: &str,
    ends: &[String],
) -> Result<Range<usize>, Problem> {
    let unlocated = |reason: &str| Problem::Unlocated { message: index, reason: reason.to_owned() };
    let before = template.render(&messages[..index], true)?;
    if !text.starts_with(&before) {
        return Err(unlocated(
            "the turns before it with the generation prompt are not how the conversation begins; \
             the template needs {% generation %} blocks around answers",
        ));
    }
    let start = before.len();
    let through = template.render(&messages[..=index], false)?;
    if text.starts_with(&through) && through.len() >= start {
        return Ok(start..through.len());
    }
    // Some templates (Qwen3) write the last answer differently from earlier ones; then the answer itself must follow
    // the generation prompt, closed by a special token.
    let content = messages[index].content.trim();
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
fn trim_after_end(text: &str, span: Range<usize>, ends: &[String]) -> (Range<usize>, bool) {
    let trimmed = text[span.clone()].trim_end();
    let closed = ends.iter().any(|end| trimmed.ends_with(end.as_str()));
    (span.start..span.start + trimmed.len(), closed)
}
