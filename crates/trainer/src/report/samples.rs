//! Answers before and after, beside what was expected.

use data::score::Scores;

use super::escaped;
use crate::metrics::AnswersRow;
use crate::sft::Sample;

/// Most characters of a text on the page.
const LONGEST: usize = 2_000;

/// The section of the page.
pub(super) fn section(samples: &[Sample], scores: &[&AnswersRow]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let samples: String = samples.iter().map(sample).collect();
    format!("<h2>Answers before and after</h2>{}{samples}", table(scores))
}

fn table(scores: &[&AnswersRow]) -> String {
    if scores.is_empty() {
        return String::new();
    }
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let line = |row: &&AnswersRow| {
        let Scores { exact_match, number_match, f1, .. } = row.scores;
        let number = number_match.map_or_else(String::new, percent);
        let cells = [row.step.to_string(), percent(exact_match), number, percent(f1)];
        format!("<tr><td>{}</td></tr>", cells.join("</td><td>"))
    };
    let lines: String = scores.iter().map(line).collect();
    format!(
        "<table><thead><tr><th>Step</th><th>Exact match</th><th>Same number</th><th>F1 of words</th></tr></thead>\
         <tbody>{lines}</tbody></table>"
    )
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
