//! Saving beside training: a thread that writes what the training thread copied to the host.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use models::tokenizer::Tokenizer;

use super::Output;
use crate::checkpoint::{AdapterFiles, Snapshot, retain};

/// What is to be saved.
#[derive(Debug)]
pub(super) struct Save {
    pub(super) snapshot: Snapshot,
    /// The adapter to use from now on, where it is a better one.
    pub(super) best: Option<Arc<AdapterFiles>>,
    /// The file of metrics: its rows must be durable before a checkpoint counts on them.
    pub(super) metrics: Option<File>,
}

/// What was saved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Saved {
    pub(super) step: usize,
    /// Of the checkpoint; 0 where none is kept.
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

/// A save that failed, to be tried again.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) save: Save,
    pub(super) error: anyhow::Error,
}

impl Failed {
    /// Whether there is no room, which somebody may make.
    pub(super) fn disk_is_full(&self) -> bool {
        let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
        self.error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|error| full.contains(&error.kind()))
    }
}

/// Where saves go.
#[derive(Debug, Clone)]
struct Places {
    adapter: PathBuf,
    last_adapter: PathBuf,
    checkpoints: PathBuf,
    keep: usize,
    tokenizer: Option<Tokenizer>,
}

impl Places {
    /// Writes the tokenizer's files into an adapter directory, where they are not there yet: they stay when its adapter
    /// is replaced.
    fn complete(&self, adapter: &Path) -> Result<()> {
        match &self.tokenizer {
            Some(tokenizer) if !tokenizer.is_saved(adapter) => Ok(tokenizer.save(adapter)?),
            _ => Ok(()),
        }
    }

    /// In an order that a kill may cut anywhere: a checkpoint comes after all that it counts on.
    fn write(&self, save: &Save) -> Result<Saved> {
        let start = Instant::now();
        let Save { snapshot, best, metrics } = save;
        if let Some(best) = best {
            best.write(&self.adapter)?;
            self.complete(&self.adapter)?;
        }
        snapshot.adapter.write(&self.last_adapter)?;
        self.complete(&self.last_adapter)?;
        if let Some(metrics) = metrics {
            metrics.sync_data().context("metrics.jsonl")?;
        }
        let state = &snapshot.state;
        let mut bytes = 0;
        if self.keep > 0 {
            bytes = snapshot.write(&self.checkpoints)?;
            retain(&self.checkpoints, state.step, self.keep, state.best.map(|(step, _)| step))?;
        }
        Ok(Saved { step: state.step, bytes, took: start.elapsed() })
    }
}

/// The thread that saves, one thing at a time.
#[derive(Debug)]
pub(super) struct Saver {
    /// `None` once no more is to come.
    jobs: Option<Sender<Save>>,
    done: Receiver<Result<Saved, Box<Failed>>>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
    heard: VecDeque<Result<Saved, Box<Failed>>>,
}

impl Saver {
    /// Starts the thread; `keep` checkpoints stay.
    pub(super) fn start(output: &Output, keep: usize) -> Result<Self> {
        let places = Places {
            adapter: output.adapter(),
            last_adapter: output.last_adapter(),
            checkpoints: output.checkpoints(),
            keep,
            tokenizer: output.tokenizer().cloned(),
        };
        let (jobs, to_do) = channel::<Save>();
        let (report, done) = channel();
        let work = move || {
            for save in to_do {
                let result = places.write(&save).map_err(|error| Box::new(Failed { save, error }));
                if report.send(result).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("saver".to_owned()).spawn(work);
        let thread = Some(thread.context("cannot start a thread to save in")?);
        Ok(Self { jobs: Some(jobs), done, thread, busy: false, heard: VecDeque::new() })
    }

    /// Whether something is being saved.
    pub(super) fn busy(&mut self) -> bool {
        if self.busy
            && let Ok(result) = self.done.try_recv()
        {
            self.busy = false;
            self.heard.push_back(result);
        }
        self.busy
    }

    /// Waits until nothing is being saved.
    pub(super) fn wait(&mut self) -> Result<()> {
        if self.busy() {
            let result = self.done.recv().map_err(|_| anyhow!("the thread that saves ended"))?;
            self.busy = false;
            self.heard.push_back(result);
        }
        Ok(())
    }

    /// What became of the next save that is done and was not asked for yet.
    pub(super) fn outcome(&mut self) -> Option<Result<Saved, Box<Failed>>> {
        self.busy();
        self.heard.pop_front()
    }

    /// Hands a save over, once the one before is done: a snapshot is large, so no more than one waits in memory.
    pub(super) fn submit(&mut self, save: Save) -> Result<()> {
        self.wait()?;
        let jobs = self.jobs.as_ref().expect("taken when dropped only");
        jobs.send(save).map_err(|_| anyhow!("the thread that saves ended"))?;
        self.busy = true;
        Ok(())
    }
}

impl Drop for Saver {
    /// What was handed over is saved, also when the run ends in an error.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was seen as a missing outcome.
            let _ = thread.join();
        }
    }
}
