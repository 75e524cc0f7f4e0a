//! `metrics.jsonl`: one JSON object a line, one line a step or evaluation.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use data::score::Scores;
use serde::{Deserialize, Serialize};

use crate::append::Appender;

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// Number of the step, counted from 1.
    pub step: usize,
    /// Passes over the rows so far.
    pub epoch: f64,
    /// Mean negative log-likelihood of the step's trained tokens.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens that went through the model in this step.
    pub tokens: usize,
    /// Those of them that the loss covers.
    pub trained_tokens: usize,
    /// `tokens` by the step's time.
    pub tokens_per_second: f64,
    /// Most memory the process has had so far; null where the system does not tell.
    pub peak_rss_bytes: Option<u64>,
    /// Time since the start of training, evaluations included.
    pub elapsed_s: f64,
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// Optimizer steps before it.
    pub step: usize,
    /// Mean negative log-likelihood of the held-out rows' trained tokens.
    pub eval_loss: f64,
    /// `exp(eval_loss)`.
    pub perplexity: f64,
    /// Trained tokens of the held-out rows.
    pub eval_trained_tokens: usize,
    /// Time since the start of training.
    pub elapsed_s: f64,
}

/// A step that left the adapter as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkippedRow {
    /// Number of the step, counted from 1.
    pub step: usize,
    /// What was not finite, or how high the loss was, and in which rows.
    pub skipped: String,
    /// Learning rate of the step.
    pub lr: f64,
    /// Time since the start of training.
    pub elapsed_s: f64,
}

/// Answers to rows to judge by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswersRow {
    /// Optimizer steps before them.
    pub step: usize,
    /// How good they are.
    #[serde(flatten)]
    pub scores: Scores,
    /// Time since the start of training.
    pub elapsed_s: f64,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Row {
    /// One optimizer step.
    Step(StepRow),
    /// One evaluation.
    Eval(EvalRow),
    /// One step without an update.
    Skipped(SkippedRow),
    /// Answers before the first step and after the last.
    Answers(AnswersRow),
}

impl Row {
    /// Steps before the end of what the row tells of.
    pub fn step(&self) -> usize {
        match self {
            Self::Step(row) => row.step,
            Self::Eval(row) => row.step,
            Self::Skipped(row) => row.step,
            Self::Answers(row) => row.step,
        }
    }
}

/// The rows of `metrics.jsonl` as far as they are whole, with the byte at which each begins and the one after the
/// last. A killed process may leave half a line.
fn whole_rows(text: &[u8]) -> (Vec<(usize, Row)>, usize) {
    let (mut rows, mut start) = (Vec::new(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let row = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        let Some(row) = row else { break };
        rows.push((start, row));
        start += line.len();
    }
    (rows, start)
}

/// Reads `metrics.jsonl`, up to the first line that is not whole.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(whole_rows(&text).0.into_iter().map(|(_, row)| row).collect())
}

/// Writes rows as they come. One that cannot be written, as on a full disk, waits for a later one.
#[derive(Debug)]
pub struct MetricsWriter(Appender);

impl MetricsWriter {
    /// Starts an empty file.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self(Appender::open(path, |_| 0)?))
    }

    /// Goes on after `step` steps: rows of later steps are cut off, and what a killed process left of a line. With
    /// `evaluate`, an evaluation after that step is, too, with what follows it: it comes again.
    pub fn resume(path: &Path, step: usize, evaluate: bool) -> Result<Self> {
        let keep = |text: &[u8]| {
            let (rows, end) = whole_rows(text);
            let again = |row: &Row| {
                row.step() > step || evaluate && row.step() == step && matches!(row, Row::Eval(_))
            };
            rows.iter().find(|(_, row)| again(row)).map_or(end, |(start, _)| *start)
        };
        Ok(Self(Appender::open(path, keep)?))
    }

    /// Adds a line.
    pub fn write(&mut self, row: &Row) -> Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        self.0.append(&line);
        Ok(())
    }

    /// The file, to make its rows durable.
    pub fn file(&self) -> Result<File> {
        self.0.file()
    }
}

/// The most memory this process has had resident, in bytes; `None` where there is no procfs.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_peak(&status)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let step = Row::Step(StepRow {
            step: 1,
            epoch: 0.5,
            loss: 2.0,
            lr: 1e-4,
            grad_norm: 0.1,
            tokens: 10,
            trained_tokens: 4,
            tokens_per_second: 20.0,
            peak_rss_bytes: None,
            elapsed_s: 0.5,
        });
        let eval = Row::Eval(EvalRow {
            step: 1,
            eval_loss: 0.0,
            perplexity: 1.0,
            eval_trained_tokens: 3,
            elapsed_s: 1.0,
        });
        let mut writer = MetricsWriter::create(&path).unwrap();
        writer.write(&step).unwrap();
        writer.write(&eval).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let rows: Vec<Row> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows, [step, eval]);
    }

    fn eval(step: usize) -> Row {
        let (eval_loss, perplexity) = (0.5, 1.5);
        Row::Eval(EvalRow { step, eval_loss, perplexity, eval_trained_tokens: 3, elapsed_s: 1.0 })
    }

    fn skipped(step: usize) -> Row {
        Row::Skipped(SkippedRow { step, skipped: "loss".into(), lr: 0.1, elapsed_s: 1.0 })
    }

    fn answers(step: usize) -> Row {
        let scores = Scores { exact_match: 0.5, matches: 1, number_match: None, f1: 0.75 };
        Row::Answers(AnswersRow { step, scores, elapsed_s: 1.0 })
    }

    #[test]
    fn answers_stay_unless_an_evaluation_before_them_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let rows = [answers(0), eval(0), skipped(1), eval(1), answers(1)];
        for (step, evaluate, left) in [(0, false, 2), (0, true, 1), (1, false, 5), (1, true, 3)] {
            let mut writer = MetricsWriter::create(&path).unwrap();
            for row in &rows {
                writer.write(row).unwrap();
            }
            assert_eq!(read(&path).unwrap(), rows);
            MetricsWriter::resume(&path, step, evaluate).unwrap();
            assert_eq!(read(&path).unwrap(), rows[..left]);
        }
    }

    #[test]
    fn a_resumed_file_has_no_step_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let rows = [eval(0), skipped(1), skipped(2), eval(2), skipped(3)];
        for (step, evaluate, left) in
            [(3, false, 5), (2, false, 4), (2, true, 3), (1, false, 2), (0, true, 0)]
        {
            let mut writer = MetricsWriter::create(&path).unwrap();
            for row in &rows {
                writer.write(row).unwrap();
            }
            writer.0.append(b"{\"step\": 4, \"lo");
            assert_eq!(read(&path).unwrap(), rows);
            let mut writer = MetricsWriter::resume(&path, step, evaluate).unwrap();
            assert_eq!(read(&path).unwrap(), rows[..left]);
            writer.write(&skipped(9)).unwrap();
            assert_eq!(read(&path).unwrap().len(), left + 1, "appended");
        }
        std::fs::remove_file(&path).unwrap();
        MetricsWriter::resume(&path, 3, false).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn peak_memory_is_told_in_bytes() {
        assert_eq!(parse_peak("VmPeak:\t 9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(parse_peak("VmPeak:\t 9 kB\n"), None);
    }
}
