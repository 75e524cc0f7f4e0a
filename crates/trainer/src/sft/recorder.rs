//! Where the rows of a run go.

use std::fs::File;

use anyhow::Result;

use super::Output;
use crate::metrics::{self, MetricsWriter, Row};
use crate::tensorboard::{self, EventWriter};

/// `metrics.jsonl`, and event files where they are asked for.
#[derive(Debug)]
pub(super) struct Recorder {
    metrics: MetricsWriter,
    events: Option<EventWriter>,
    /// Whether the rows have the samples' scores after the steps that a resumed run begins with.
    pub(super) answered: bool,
}

impl Recorder {
    /// For a new run, in the place of an earlier one.
    pub(super) fn create(output: &Output, with_events: bool) -> Result<Self> {
        let dir = output.tensorboard();
        tensorboard::remove(&dir)?;
        let events = with_events.then(|| EventWriter::create(&dir)).transpose()?;
        let metrics = MetricsWriter::create(&output.metrics())?;
        Ok(Self { metrics, events, answered: false })
    }

    /// Goes on after `step` steps, as [`MetricsWriter::resume`] does.
    pub(super) fn resume(
        output: &Output,
        with_events: bool,
        step: usize,
        evaluate: bool,
    ) -> Result<Self> {
        let events =
            with_events.then(|| EventWriter::resume(&output.tensorboard(), step)).transpose()?;
        let path = output.metrics();
        let metrics = MetricsWriter::resume(&path, step, evaluate)?;
        let scored = |row: &Row| row.step() == step && matches!(row, Row::Answers(_));
        let answered = metrics::read(&path)?.iter().any(scored);
        Ok(Self { metrics, events, answered })
    }

    pub(super) fn write(&mut self, row: &Row) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.write(row);
        }
        self.metrics.write(row)
    }

    /// The file of metrics, to make its rows durable.
    pub(super) fn file(&self) -> Result<File> {
        self.metrics.file()
    }
}
