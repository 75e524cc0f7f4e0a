//! What a data file holds.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use data::rows::{Content, Rows};
use data::{EncodeOptions, Stats};

use crate::base::Base;

pub(super) fn report(path: &Path, model: Option<&Path>) -> Result<String> {
    let rows = Rows::read(path, None)?.strict()?;
    let mut text = format!("{} {} rows\n", rows.rows.len(), rows.format);
    let turns: Vec<usize> = rows.rows.iter().filter_map(|row| turns(&row.content)).collect();
    if let (Some(least), Some(most)) = (turns.iter().min(), turns.iter().max()) {
        writeln!(text, "{least} to {most} messages a row")?;
    }
    let Some(model) = model else {
        text.push_str("give --model to count tokens\n");
        return Ok(text);
    };
    let base = Base::open(model)?;
    let dataset = base.encoder().encode(&rows, &EncodeOptions::whole(usize::MAX))?.strict()?;
    let Stats { tokens, trained_tokens, longest, .. } = dataset.stats();
    let context = base.config().context_limit();
    writeln!(text, "{tokens} tokens, {trained_tokens} trained")?;
    writeln!(text, "longest row {longest} tokens, the model's context is {context}")?;
    Ok(text)
}

fn turns(content: &Content) -> Option<usize> {
    match content {
        Content::Chat(chat) => Some(chat.messages.len()),
        _ => None,
    }
}
