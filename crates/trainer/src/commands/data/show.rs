//! `qlora-train data show`: rows as they are learned.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use anyhow::{Result, bail};
use data::{Example, IGNORE};
use models::tokenizer::Tokenizer;

use super::RunArgs;
use crate::prepare::prepare;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Rows to show.
    #[arg(short = 'n', long = "rows", value_name = "N", default_value_t = 3)]
    rows: usize,
    /// Show the row of this line of its file, instead of the first ones.
    #[arg(long, value_name = "N")]
    line: Option<usize>,
    /// Show evaluation rows.
    #[arg(long)]
    eval: bool,
}

/// What sets trained tokens apart.
#[derive(Debug, Clone, Copy)]
struct Marks {
    open: &'static str,
    close: &'static str,
}

const COLOUR: Marks = Marks { open: "\x1b[1;32m", close: "\x1b[0m" };
/// For files and pipes.
const BRACKETS: Marks = Marks { open: "⟦", close: "⟧" };

pub(super) fn run(args: &Args) -> Result<()> {
    let (recipe, base) = args.run.open()?;
    let mut prepared = prepare(&recipe, &base)?;
    let dataset = match prepared.eval.take() {
        Some(eval) if args.eval => eval,
        None if args.eval => bail!("the recipe has no evaluation rows"),
        _ => prepared.train,
    };
    let rows = dataset.places().enumerate();
    let chosen = rows.filter(|(_, place)| args.line.is_none_or(|line| place.number == line));
    let chosen: Vec<usize> = chosen.map(|(row, _)| row).take(args.rows).collect();
    if chosen.is_empty() {
        dataset.bad.first.into_iter().next().map_or(Ok(()), |bad| Err(data::Error::from(bad)))?;
        bail!("no such row; it may be held out (--eval) or dropped");
    }
    let marks = if std::io::stdout().is_terminal() { COLOUR } else { BRACKETS };
    let mut out = std::io::stdout().lock();
    for row in chosen {
        let example = &dataset.example(row)?;
        let (tokens, trained) = (example.input_ids.len(), example.trained_tokens());
        writeln!(out, "{}: {tokens} tokens, {trained} trained", example.place)?;
        writeln!(out, "{}", text(base.tokenizer(), example, marks)?)?;
        writeln!(out, "ids: {}\n", ids(example, marks))?;
    }
    Ok(())
}

/// Runs of tokens that are trained, or not.
fn runs(example: &Example) -> impl Iterator<Item = (bool, std::ops::Range<usize>)> {
    // The first token is never predicted.
    let trained = |at: usize| at > 0 && example.labels[at] != IGNORE;
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = (start < example.labels.len()).then(|| trained(start))?;
        let end = (start..example.labels.len()).find(|at| trained(*at) != first);
        let run = start..end.unwrap_or(example.labels.len());
        start = run.end;
        Some((first, run))
    })
}

/// The whole row, special tokens written out.
fn text(tokenizer: &Tokenizer, example: &Example, marks: Marks) -> Result<String> {
    let mut stream = tokenizer.decode_stream(false);
    let mut text = String::new();
    for (trained, run) in runs(example) {
        let mut piece = String::new();
        for id in &example.input_ids[run.clone()] {
            piece += &stream.step(*id)?;
        }
        if run.end == example.input_ids.len() {
            piece += &std::mem::replace(&mut stream, tokenizer.decode_stream(false)).finish()?;
        }
        mark(&mut text, trained, marks, &piece);
    }
    Ok(text)
}

fn ids(example: &Example, marks: Marks) -> String {
    let mut text = String::new();
    for (trained, run) in runs(example) {
        let ids: Vec<String> = example.input_ids[run].iter().map(u32::to_string).collect();
        if !text.is_empty() {
            text.push(' ');
        }
        mark(&mut text, trained, marks, &ids.join(" "));
    }
    text
}

fn mark(text: &mut String, trained: bool, Marks { open, close }: Marks, piece: &str) {
    let (open, close) = if trained { (open, close) } else { ("", "") };
    write!(text, "{open}{piece}{close}").expect("strings take everything");
}
