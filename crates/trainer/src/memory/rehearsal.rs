//! A run without its arithmetic.

use std::sync::Arc;

use anyhow::{Result, ensure};
use data::{Batch, Window};
use kernels::{Backend, MemoryKind, MemoryUsage};
use models::decoder::{Adapter, Decoder, Keep};

use crate::recipe::TrainSection;
use crate::schedule::Schedule;
use crate::sft::{Prompts, SftTrainer, StepSettings, batch_loss};

/// What a run gives the device to do, as far as memory depends on it.
#[derive(Debug, Clone)]
pub struct Workload {
    /// How steps are taken.
    pub train: TrainSection,
    /// Steps, the first of which stands for all where speed is asked for.
    pub windows: Vec<Window>,
    /// Batches of evaluations.
    pub evaluated: Vec<Batch>,
    /// Prompts that are answered before and after.
    pub prompts: Option<Prompts>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// What each layer kept.
    pub keep: Arc<[Keep]>,
    /// Memory at the end, and its peak.
    pub usage: MemoryUsage,
    /// Bytes of a checkpoint's adapter and optimizer state, copied to the host's memory to be written from there.
    pub checkpoint: usize,
    /// Whether the device's memory is the host's.
    pub in_host_memory: bool,
    /// Floating-point operations of the first step.
    pub flops: u64,
    /// Tokens of it.
    pub tokens: usize,
}

impl Need {
    /// Bytes that the device must have.
    pub fn bytes(&self) -> usize {
        let checkpoint = if self.in_host_memory { self.checkpoint } else { 0 };
        self.usage.extent.max(self.usage.peak) + checkpoint
    }

    /// Bytes of the host's memory besides.
    pub fn host_bytes(&self) -> usize {
        let checkpoint = if self.in_host_memory { 0 } else { self.checkpoint };
        self.usage.host_peak + checkpoint
    }

    /// Whether a layer that keeps this has its input in the host's memory, apart from the device's.
    pub fn puts_away(&self, keep: Keep) -> bool {
        !keep.input && !self.in_host_memory
    }
}

/// A run on a [dry](Backend::dry_run) backend.
pub struct Rehearsal<'m, K: Backend> {
    decoder: &'m Decoder<K>,
    trainer: SftTrainer<'m, K>,
    workload: &'m Workload,
    /// Whether nothing was measured yet: then loading counts too, and everything lies where it will.
    first: bool,
}

impl<'m, K: Backend> Rehearsal<'m, K> {
    /// Begins with everything loaded.
    pub fn new(
        decoder: &'m Decoder<K>,
        adapter: Adapter<K>,
        workload: &'m Workload,
    ) -> Result<Self> {
        let backend = decoder.backend();
        ensure!(backend.is_dry_run(), "a rehearsal needs a backend that does nothing");
        let schedule = Schedule::new(&workload.train, 1);
        let settings = StepSettings::new(backend, &workload.train, Arc::default());
        let trainer = SftTrainer::new(decoder, adapter, schedule, settings)?;
        Ok(Self { decoder, trainer, workload, first: true })
    }

    /// Goes through evaluation and steps, keeping of each layer what `keep` says.
    pub fn measure(&mut self, keep: Arc<[Keep]>) -> Result<Need> {
        let backend = self.decoder.backend();
        if !std::mem::replace(&mut self.first, false) {
            backend.reset_peak();
        }
        let precision = self.workload.train.precision.on(backend);
        for batch in &self.workload.evaluated {
            batch_loss(self.decoder, Some(self.trainer.adapter()), batch, precision)?;
        }
        if let Some(prompts) = &self.workload.prompts {
            prompts.rehearse(self.decoder, self.trainer.adapter(), precision)?;
        }
        self.trainer.set_keep(Arc::clone(&keep));
        let mut first = None;
        for window in &self.workload.windows {
            let before = backend.memory().total_flops();
            let tokens = self.trainer.step(window)?.tokens;
            first.get_or_insert((backend.memory().total_flops() - before, tokens));
        }
        let (flops, tokens) = first.unwrap_or_default();
        let usage = backend.memory();
        let stored = [MemoryKind::Adapters, MemoryKind::Optimizer];
        let live = usage.live.iter().filter(|(kind, _)| stored.contains(kind));
        let checkpoint = live.map(|(_, bytes)| bytes).sum();
        let in_host_memory = backend.shares_host_memory();
        Ok(Need { keep, usage, checkpoint, in_host_memory, flops, tokens })
    }
}

/// The windows among which those that take most memory are: the one with most tokens in a pass, and those with
/// the longest row and most trained tokens.
pub fn extremes(windows: impl Iterator<Item = data::Result<Window>>) -> data::Result<Vec<Window>> {
    let keys: [fn(&Batch) -> usize; 3] = [
        Batch::tokens,
        |batch| batch.seq_lens.iter().copied().max().unwrap_or(0),
        Batch::trained_tokens,
    ];
    let size = |window: &Window, key: fn(&Batch) -> usize| {
        window.micro_batches.iter().map(key).max().unwrap_or(0)
    };
    let mut most: [Option<(usize, Window)>; 3] = [None, None, None];
    for window in windows {
        let window = window?;
        for (most, key) in most.iter_mut().zip(keys) {
            let size = size(&window, key);
            if most.as_ref().is_none_or(|(most, _)| size > *most) {
                *most = Some((size, window.clone()));
            }
        }
    }
    let mut found = Vec::new();
    for (_, window) in most.into_iter().flatten() {
        if !found.contains(&window) {
            found.push(window);
        }
    }
    Ok(found)
}
