//! `qlora-train eval`: measures a model on rows of data.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result};
use data::rows::Rows;
use data::score::Scores;
use data::{Dataset, EncodeOptions, GenerationCase, PromptFormat};
use kernels::Backend;
use models::generate::{GenerateOptions, Sampling, generate};
use serde::Serialize;

use crate::UsageError;
use crate::base::{Base, Loaded, ModelArgs};
use crate::device::Task;
use crate::progress::Progress;
use crate::sft::evaluate;

/// Tokens that an answer may have beyond the longest expected one: a longer answer is wrong anyway.
const SPARE_TOKENS: usize = 8;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Rows: a file or a directory.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Treat prompt/completion rows as a user and an assistant turn of the chat template.
    #[arg(long)]
    chat: bool,
    /// Rows of one forward pass.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Let the model answer each row and compare with the row's last answer.
    #[arg(long)]
    exact_match: bool,
    /// Most tokens of such an answer [default: a few more than the longest expected answer].
    #[arg(long, value_name = "N", requires = "exact_match")]
    max_new_tokens: Option<usize>,
    /// Print the first N answers.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "exact_match")]
    show: usize,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    loss: f64,
    perplexity: f64,
    rows: usize,
    tokens: usize,
    trained_tokens: usize,
    #[serde(flatten)]
    exact_match: Option<Answers>,
}

#[derive(Debug, Serialize)]
struct Answers {
    #[serde(flatten)]
    scores: Scores,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    examples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    line: usize,
    prompt: String,
    expected: String,
    answer: String,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.batch_size == 0 {
        return Err(UsageError("--batch-size 0: must be at least 1".to_owned()).into());
    }
    let prompt_format = if args.chat { PromptFormat::Chat } else { PromptFormat::Plain };
    let base = args.model.open()?;
    let rows = Rows::read(&args.data, None)?.strict()?;
    let whole = EncodeOptions::whole(base.config().context_limit());
    let options = EncodeOptions { prompt_format, ..whole };
    let dataset = base.encoder().encode(&rows, &options)?.strict()?;
    let cases = args
        .exact_match
        .then(|| base.encoder().generation_cases(&rows, prompt_format))
        .transpose()?;
    let task = Measure { args, base, dataset: &dataset, cases: cases.as_deref() };
    let report = args.model.device().run(task)?;
    print(args, &report)
}

struct Measure<'a> {
    args: &'a Args,
    base: Base,
    dataset: &'a Dataset,
    cases: Option<&'a [GenerationCase]>,
}

impl Task for Measure<'_> {
    type Output = Report;

    fn run<K: Backend>(self, backend: &K) -> Result<Report> {
        let loaded = self.args.model.load(backend, self.base)?;
        measure(self.args, &loaded, self.dataset, self.cases)
    }
}

fn measure<K: Backend>(
    args: &Args,
    loaded: &Loaded<K>,
    dataset: &Dataset,
    cases: Option<&[GenerationCase]>,
) -> Result<Report> {
    let progress = Progress::new("evaluating", dataset.len(), 0);
    let evaluation = evaluate(
        &loaded.decoder,
        loaded.adapter.as_ref(),
        dataset,
        args.batch_size,
        loaded.precision,
        |rows| {
            progress.set(rows, String::new);
            ControlFlow::Continue(())
        },
    )?
    .expect("nothing breaks it off");
    progress.finish();
    Ok(Report {
        loss: evaluation.loss,
        perplexity: evaluation.perplexity(),
        rows: dataset.len(),
        tokens: evaluation.tokens,
        trained_tokens: evaluation.trained_tokens,
        exact_match: cases.map(|cases| exact_match(args, loaded, cases)).transpose()?,
    })
}

fn exact_match<K: Backend>(
    args: &Args,
    loaded: &Loaded<K>,
    cases: &[GenerationCase],
) -> Result<Answers> {
    let max_new_tokens = match args.max_new_tokens {
        Some(tokens) => tokens,
        None => longest_answer(&loaded.base, cases)? + SPARE_TOKENS,
    };
    let options = GenerateOptions {
        max_new_tokens,
        sampling: Sampling::GREEDY,
        stop_tokens: loaded.base.stop_tokens().to_vec(),
        precision: loaded.precision,
    };
    let progress = Progress::new("answering", cases.len(), 0);
    let mut answers = Vec::with_capacity(cases.len());
    for batch in cases.chunks(args.batch_size) {
        let prompts: Vec<Vec<u32>> = batch.iter().map(|case| case.prompt_ids.clone()).collect();
        let adapter = loaded.adapter.as_ref();
        let texts = generate(&loaded.decoder, adapter, &prompts, &options, |_, _| {
            ControlFlow::Continue(())
        })?;
        for text in texts {
            answers.push(loaded.base.tokenizer().decode(&text, true)?);
        }
        progress.set(answers.len(), String::new);
    }
    let expected = cases.iter().map(|case| case.expected.as_str());
    let scores = Scores::of(answers.iter().map(String::as_str).zip(expected));
    let shown = cases.iter().zip(answers).take(args.show).map(|(case, answer)| {
        let GenerationCase { place, prompt, expected, .. } = case.clone();
        Sample { line: place.number, prompt, expected, answer }
    });
    Ok(Answers { scores: scores.context("no row to answer")?, examples: shown.collect() })
}

fn longest_answer(base: &Base, cases: &[GenerationCase]) -> Result<usize> {
    let mut longest = 0;
    for case in cases {
        longest = longest.max(base.encoder().text_ids(&case.expected)?.len());
    }
    Ok(longest)
}

fn print(args: &Args, report: &Report) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(report)?)?;
        return Ok(());
    }
    writeln!(out, "loss            {:.4}", report.loss)?;
    writeln!(out, "perplexity      {:.3}", report.perplexity)?;
    writeln!(out, "rows            {}", report.rows)?;
    writeln!(out, "tokens          {}", report.tokens)?;
    writeln!(out, "trained tokens  {}", report.trained_tokens)?;
    let Some(Answers { scores, examples }) = &report.exact_match else { return Ok(()) };
    let Scores { exact_match, matches, number_match, f1 } = scores;
    let rows = report.rows;
    writeln!(out, "exact match     {:.1} % ({matches} of {rows})", 100.0 * exact_match)?;
    if let Some(share) = number_match {
        writeln!(out, "same number     {:.1} % of the rows with one", 100.0 * share)?;
    }
    writeln!(out, "F1 of words     {:.1} %", 100.0 * f1)?;
    for Sample { line, prompt, expected, answer } in examples {
        writeln!(out, "\nline {line}: {prompt}")?;
        writeln!(out, "  expected: {expected}")?;
        writeln!(out, "  answer:   {}", answer.trim().replace('\n', "\n            "))?;
    }
    Ok(())
}
