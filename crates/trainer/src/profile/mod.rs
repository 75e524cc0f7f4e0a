//! Where the time of training steps goes, by operation: `train --profile`.

mod chrome;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kernels::trace::{Event, record};

/// Steps whose spans are kept for the trace, the last ones, so that it stays small.
const KEPT_STEPS: usize = 3;

/// What recorded steps were made of.
#[derive(Debug, Default)]
pub struct Profile {
    steps: usize,
    /// Time of all steps.
    total: Duration,
    entries: BTreeMap<(Phase, Part), Entry>,
    last_steps: VecDeque<Vec<Event>>,
}

/// The part of a step that an operation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Forward,
    Backward,
    Optimizer,
    /// Before, between and after them.
    Rest,
}

/// What time is counted for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Operation(String),
    /// What a step, phase or layer takes beyond the spans in it.
    Outside,
}

#[derive(Debug, Default)]
struct Entry {
    calls: usize,
    time: Duration,
}

impl Profile {
    /// Runs one step and records it.
    pub fn step<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let (result, events) = record(step);
        self.add(events);
        result
    }

    /// Steps recorded so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The time of a step by phase and operation, for people.
    pub fn table(&self) -> String {
        table::render(self)
    }

    /// Writes the spans of the last steps for `chrome://tracing` and Perfetto.
    pub fn write_trace(&self, path: &Path) -> Result<()> {
        let trace = chrome::trace(self.last_steps.iter().flatten());
        Ok(models::weights::write_bytes(path, trace.to_string().as_bytes())?)
    }

    /// Counts the spans of one step, which lie in one span of its thread.
    fn add(&mut self, mut events: Vec<Event>) {
        let Some(step) = events.iter().position(|event| event.name.starts_with("step ")) else {
            return;
        };
        let thread = events[step].thread;
        self.steps += 1;
        self.total += events[step].duration;
        events.sort_by_key(|event| (event.start, event.depth));
        let spans: Vec<&Event> = events.iter().filter(|event| event.thread == thread).collect();
        let mut phase = Phase::Rest;
        for (i, span) in spans.iter().enumerate() {
            phase = if span.depth < 2 { Phase::of(span) } else { phase };
            let inside = &spans[i + 1..];
            let inside = inside.iter().take_while(|inner| inner.depth > span.depth);
            let children = inside.filter(|inner| inner.depth == span.depth + 1);
            let (count, time) = children.fold((0, Duration::ZERO), |(count, time), inner| {
                (count + 1, time + inner.duration)
            });
            let part = if count > 0 || span.depth == 0 {
                Part::Outside
            } else {
                Part::Operation(span.name.to_string())
            };
            let entry = self.entries.entry((phase, part)).or_default();
            entry.calls += 1;
            entry.time += span.duration.saturating_sub(time);
        }
        self.last_steps.push_back(events);
        if self.last_steps.len() > KEPT_STEPS {
            self.last_steps.pop_front();
        }
    }
}

impl Phase {
    const ALL: [Self; 4] = [Self::Forward, Self::Backward, Self::Optimizer, Self::Rest];

    /// The phase that a step or a span directly in it begins.
    fn of(span: &Event) -> Self {
        let named = Self::ALL.into_iter().find(|phase| phase.name() == span.name);
        named.unwrap_or(Self::Rest)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
            Self::Rest => "rest of the step",
        }
    }
}

#[cfg(test)]
mod tests;
