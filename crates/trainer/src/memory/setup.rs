//! A run that has not begun: its model, adapter and workload.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use data::{Batch, Window};
use kernels::Backend;
use models::decoder::{Adapter, Keep};
use models::weights::Hollow;
use models::{LoraConfig, ModelConfig};

use super::{Choice, Need, Rehearsal, Workload, choose};
use crate::base::{self, Quantization};
use crate::recipe::{Checkpointing, Optim};

/// Where a run's adapter comes from.
#[derive(Debug, Clone)]
pub enum AdapterFrom<'a> {
    /// It starts anew.
    Settings(LoraConfig),
    /// It goes on with one in this directory.
    Dir(&'a Path),
}

/// Everything that a run's memory depends on.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// The base, without its values.
    pub source: &'a Hollow,
    /// Its shape.
    pub config: &'a ModelConfig,
    /// How its linears are held.
    pub quantization: Quantization,
    /// What trains.
    pub adapter: AdapterFrom<'a>,
    /// Steps and evaluations.
    pub workload: Workload,
}

impl Setup<'_> {
    /// Goes through the run on a backend like `backend`, keeping what `train.gradient_checkpointing` says: where that
    /// is `auto`, as much as fits into `budget` bytes.
    pub fn choose<K: Backend>(&self, backend: &K, budget: usize) -> Result<Choice> {
        let layers = self.config.num_hidden_layers;
        let given = match self.workload.train.gradient_checkpointing {
            Checkpointing::Off => Keep::ALL,
            Checkpointing::On => Keep::NOTHING,
            Checkpointing::Auto => {
                return match self
                    .rehearse(backend, |run| choose(layers, budget, |keep| run.measure(keep)))?
                {
                    // Once more from the start: what is measured first lies where it will.
                    Choice::Fits(need) if !Keep::all_of(&need.keep) => {
                        Ok(Choice::Fits(self.measure(backend, need.keep)?))
                    }
                    choice => Ok(choice),
                };
            }
        };
        Ok(Choice::of(self.measure(backend, given.for_layers(layers))?, budget))
    }

    /// What the run takes with this kept.
    pub fn measure<K: Backend>(&self, backend: &K, keep: Arc<[Keep]>) -> Result<Need> {
        self.rehearse(backend, |run| run.measure(keep))
    }

    fn rehearse<K: Backend, T>(
        &self,
        backend: &K,
        ask: impl FnOnce(&mut Rehearsal<'_, K>) -> Result<T>,
    ) -> Result<T> {
        let (dry, precision) = (backend.dry_run(), self.workload.train.precision);
        let (source, config) = (self.source, self.config);
        let decoder = base::load(&dry, source, config, self.quantization, precision, &|_, _| ())?;
        let adapter = match &self.adapter {
            AdapterFrom::Settings(lora) => Adapter::init(&decoder, lora, 0)?,
            AdapterFrom::Dir(dir) => Adapter::load(&decoder, dir)?,
        };
        ask(&mut Rehearsal::new(&decoder, adapter, &self.workload)?)
    }

    /// Changes of the settings that take less, each with what the run takes then at least.
    pub fn smaller<K: Backend>(&self, backend: &K) -> Result<Vec<(String, usize)>> {
        let layers = self.config.num_hidden_layers;
        let mut found = Vec::new();
        for (what, setup) in self.changes() {
            found.push((what, setup.measure(backend, Keep::LEAST.for_layers(layers))?.bytes()));
        }
        Ok(found)
    }

    fn changes(&self) -> Vec<(String, Self)> {
        let mut changes = Vec::new();
        let batches = || self.workload.windows.iter().flat_map(|window| &window.micro_batches);
        let rows = batches().map(|batch| batch.seq_lens.len()).max().unwrap_or(1);
        let longest = batches().flat_map(|batch| batch.seq_lens.iter().copied()).max().unwrap_or(1);
        let with = |workload| Self { workload, ..self.clone() };
        if self.workload.train.gradient_checkpointing == Checkpointing::Off {
            changes.push(("train.gradient_checkpointing = \"auto\"".to_owned(), self.clone()));
        }
        if rows > 1 {
            let fewer = self.workload.cut(rows / 2, longest);
            changes.push((format!("train.batch_size = {}", rows / 2), with(fewer)));
        }
        if longest > 256 {
            let shorter = self.workload.cut(rows, longest / 2);
            changes.push((format!("data.max_seq_len = {}", longest / 2), with(shorter)));
        }
        if self.workload.train.optim == Optim::AdamW {
            let mut workload = self.workload.clone();
            workload.train.optim = Optim::AdamW8bit;
            changes.push(("train.optim = \"adamw_8bit\"".to_owned(), with(workload)));
        }
        if let AdapterFrom::Settings(lora) = &self.adapter
            && lora.r > 1
        {
            let lora = LoraConfig { r: lora.r / 2, ..lora.clone() };
            let what = format!("lora.r = {}", lora.r);
            changes.push((what, Self { adapter: AdapterFrom::Settings(lora), ..self.clone() }));
        }
        changes
    }
}

impl Workload {
    /// The same with at most `rows` rows of `length` tokens in a pass.
    fn cut(&self, rows: usize, length: usize) -> Self {
        let cut = |batch: &Batch| {
            let lengths: Vec<usize> =
                batch.seq_lens.iter().take(rows).map(|&len| len.min(length)).collect();
            trained(&lengths)
        };
        let window = |window: &Window| {
            let micro_batches: Vec<Batch> = window.micro_batches.iter().map(cut).collect();
            let trained_tokens = micro_batches.iter().map(Batch::trained_tokens).sum();
            Window { micro_batches, trained_tokens }
        };
        Self {
            train: self.train.clone(),
            windows: self.windows.iter().map(window).collect(),
            evaluated: self.evaluated.iter().map(cut).collect(),
            prompts: self.prompts.clone(),
        }
    }
}

/// Rows of these lengths, all of whose tokens are trained.
pub fn trained(lengths: &[usize]) -> Batch {
    let example = |&length: &usize| data::Example {
        input_ids: vec![0; length],
        labels: vec![0; length],
        place: data::rows::Place::default(),
    };
    Batch::new(&lengths.iter().map(example).collect::<Vec<_>>())
}
