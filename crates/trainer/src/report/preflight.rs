//! What was found in the data before the first step.

use std::fmt::Write as _;

use serde::Deserialize;

use super::escaped;

/// `preflight.json`, as `data::preflight::Report` is written.
#[derive(Debug, Deserialize)]
pub(super) struct Preflight {
    train: Side,
    eval: Option<Side>,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Side {
    read: usize,
    bad: usize,
    left_out: usize,
    dropped: usize,
    truncated: usize,
    rows: usize,
    tokens: usize,
    trained_tokens: usize,
    longest: usize,
    lengths: Lengths,
}

#[derive(Debug, Deserialize)]
struct Lengths {
    width: usize,
    counts: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    fatal: bool,
    message: String,
    places: Vec<String>,
    count: usize,
}

/// A line of the table: its name, and its text of a side.
type Line = (&'static str, fn(&Side) -> String);

const LINES: [Line; 9] = [
    ("Rows in the files", |side| side.read.to_string()),
    ("that cannot be used", |side| side.bad.to_string()),
    ("left out by weight", |side| side.left_out.to_string()),
    ("too long, dropped", |side| side.dropped.to_string()),
    ("too long, truncated", |side| side.truncated.to_string()),
    ("Rows used", |side| side.rows.to_string()),
    ("Tokens", |side| side.tokens.to_string()),
    ("of these trained", |side| {
        let share = 100.0 * side.trained_tokens as f64 / side.tokens.max(1) as f64;
        format!("{} ({share:.1} %)", side.trained_tokens)
    }),
    ("Longest row", |side| format!("{} tokens", side.longest)),
];

impl Preflight {
    /// The section of the page.
    pub(super) fn section(&self) -> String {
        let sides: Vec<&Side> = std::iter::once(&self.train).chain(&self.eval).collect();
        let heads = &["Training", "Evaluation"][..sides.len()];
        let heads = heads.join("</th><th>");
        let line = |(name, text): &Line| {
            let cells = sides.iter().map(|side| format!("<td>{}</td>", text(side)));
            format!("<tr><th>{name}</th>{}</tr>", cells.collect::<String>())
        };
        let lines: String = LINES.iter().map(line).collect();
        format!(
            "<h2>Data</h2>{}<div class=\"data\"><table><thead><tr><th></th><th>{heads}</th></tr></thead><tbody>{lines}</tbody></table>\
             {}</div>",
            self.findings(),
            self.train.lengths.chart()
        )
    }

    fn findings(&self) -> String {
        if self.findings.is_empty() {
            return "<p>Nothing was found wrong with it.</p>".to_owned();
        }
        let line = |Finding { check, fatal, message, places, count }: &Finding| {
            let class = if *fatal { "fatal" } else { "warning" };
            let mut line =
                format!("<li><b class=\"{class}\">{}</b> {}", escaped(check), escaped(message));
            if !places.is_empty() {
                let more = if *count > places.len() { ", ..." } else { "" };
                let places = escaped(&places.join(", "));
                write!(line, "<small>{places}{more}</small>").expect("strings take everything");
            }
            line + "</li>"
        };
        format!(
            "<ul class=\"findings\">{}</ul>",
            self.findings.iter().map(line).collect::<String>()
        )
    }
}

impl Lengths {
    /// Bars of rows by length.
    fn chart(&self) -> String {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1);
        let bar = |(i, count): (usize, &usize)| {
            let (from, to) = (i * self.width + 1, (i + 1) * self.width);
            let share = 100.0 * *count as f64 / most as f64;
            format!("<dt>{from} to {to}</dt><dd><i style=\"width:{share:.1}%\"></i>{count}</dd>")
        };
        let bars: String = self.counts.iter().enumerate().map(bar).collect();
        format!(
            "<figure><figcaption>Training rows by tokens</figcaption><dl class=\"bars\">{bars}</dl></figure>"
        )
    }
}
