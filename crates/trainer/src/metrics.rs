//! `metrics.jsonl`: one JSON object a line, one line a step or evaluation.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

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

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Row {
    /// One optimizer step.
    Step(StepRow),
    /// One evaluation.
    Eval(EvalRow),
}

/// Writes rows as they come: what was measured stays when the run does not.
#[derive(Debug)]
pub struct MetricsWriter {
    path: PathBuf,
    file: File,
}

impl MetricsWriter {
    /// Starts an empty file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a line.
    pub fn write(&mut self, row: &Row) -> Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| self.path.display().to_string())
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

    #[test]
    fn peak_memory_is_told_in_bytes() {
        assert_eq!(parse_peak("VmPeak:\t 9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(parse_peak("VmPeak:\t 9 kB\n"), None);
    }
}
