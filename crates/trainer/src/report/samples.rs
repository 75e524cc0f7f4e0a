//! Answers before and after, beside what was expected.

use super::escaped;
use crate::sft::Sample;

/// Most characters of a text on the page.
const LONGEST: usize = 2_000;

/// The section of the page.
pub(super) fn section(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let samples: String = samples.iter().map(sample).collect();
    format!("<h2>Answers before and after</h2>{samples}")
}

fn sample(Sample { place, prompt, expected, before, after }: &Sample) -> String {
    let answer = |name: &str, text: &Option<String>| {
        let Some(text) = text else { return String::new() };
        let right = if text.trim() == expected.trim() { " (as expected)" } else { "" };
        block(&format!("{name}{right}"), text)
    };
    format!(
        "<section class=\"sample\"><small>{}</small>{}<div>{}{}{}</div></section>",
        escaped(place),
        block("Prompt", prompt),
        block("Expected", expected),
        answer("Before", before),
        answer("After", after)
    )
}

fn block(name: &str, text: &str) -> String {
    let cut = text.char_indices().nth(LONGEST).map(|(at, _)| &text[..at]);
    let more = if cut.is_some() { "..." } else { "" };
    format!(
        "<figure><figcaption>{name}</figcaption><pre>{}{more}</pre></figure>",
        escaped(cut.unwrap_or(text).trim())
    )
}
