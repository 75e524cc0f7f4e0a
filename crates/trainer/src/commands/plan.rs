//! `qlora-train plan`: what a run takes, before anything is downloaded or loaded.

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use data::{Batch, Window};
use kernels::Backend;
use models::ModelConfig;
use models::decoder::Keep;
use models::weights::{Checkpoint, Hollow};

use crate::UsageError;
use crate::base::{Quantization, count_parameters};
use crate::device::{Device, Task};
use crate::memory::{
    AdapterFrom, Budget, Card, Choice, Report, Setup, Workload, of_free, size, too_large, trained,
};
use crate::progress::say;
use crate::recipe::{Override, Recipe, default_lora};

/// Tokens of the shortest row that one can be learned from.
const SHORTEST: usize = 2;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What would be run; without it, defaults with LoRA of rank 16 on all linears.
    #[arg(value_name = "RECIPE.toml")]
    recipe: Option<PathBuf>,
    /// The base: a checkpoint, a directory with nothing but its config.json, or a name such as llama-3.1-8b
    /// [recipe: model.path].
    #[arg(long, value_name = "PATH|NAME")]
    model: Option<PathBuf>,
    /// Where it would run: auto, cpu, cuda:N, a card that need not be there such as rtx3090, or so many GiB.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Target,
    /// Tokens of a row [recipe: `data.max_seq_len`; default: 2048].
    #[arg(long, value_name = "N")]
    seq_len: Option<usize>,
    /// Rows of a pass [recipe: `train.batch_size`].
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Memory that the run may take, such as 22GiB [recipe: `train.memory_budget`; default: the device's].
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<Budget>,
    /// Find the longest row that fits.
    #[arg(long, conflicts_with_all = ["seq_len", "max_batch"])]
    max_seq_len: bool,
    /// Find the most rows that fit.
    #[arg(long, conflicts_with = "batch_size")]
    max_batch: bool,
    /// Set any field of the recipe, e.g. lora.r=64. The value is TOML or a bare string.
    #[arg(long = "set", value_name = "K=V")]
    overrides: Vec<Override>,
    /// Write JSON, bytes and operations as numbers.
    #[arg(long)]
    json: bool,
}

/// What a run is planned for.
#[derive(Debug, Clone, Copy)]
enum Target {
    Here(Device),
    Card(Card),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self::Here).or_else(|_| text.parse().map(Self::Card))
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let recipe = recipe(args)?;
    let (config, source) = model(&recipe.model.path)?;
    let query = Query { args, recipe, config, source };
    match args.device {
        Target::Here(device) => device.run(query),
        Target::Card(card) => on_card(card, &query),
    }
}

/// The recipe, or the defaults, with what the command line says.
fn recipe(args: &Args) -> Result<Recipe> {
    let mut overrides = args.overrides.clone();
    let model = args.model.as_ref();
    overrides.extend(model.map(|path| Override::path("--model", "model", "path", path)));
    let mut recipe = Recipe::draft(args.recipe.as_deref(), &overrides)?;
    if recipe.model.path.as_os_str().is_empty() {
        let names: Vec<_> = ModelConfig::published_names().collect();
        let message = format!("--model is missing; known by name are {}", names.join(", "));
        return Err(UsageError(message).into());
    }
    recipe.train.batch_size = args.batch_size.unwrap_or(recipe.train.batch_size);
    recipe.train.memory_budget = args.memory_budget.unwrap_or(recipe.train.memory_budget);
    recipe.data.max_seq_len = args.seq_len.or(recipe.data.max_seq_len);
    Ok(recipe)
}

/// Shape of the model and its tensors: of a checkpoint, of a bare `config.json`, or of a published model.
fn model(path: &Path) -> Result<(ModelConfig, Hollow)> {
    if !path.exists() {
        let name = path.to_string_lossy();
        let config = ModelConfig::published(&name).with_context(|| {
            format!(
                "{name}: there is no such file or directory, and no model of that name is known"
            )
        })?;
        let source = Hollow::new(&config, path)?;
        return Ok((config, source));
    }
    if path.join("config.json").exists() && !has_weights(path)? {
        let config = ModelConfig::from_dir(path)?;
        let source = Hollow::new(&config, path)?;
        return Ok((config, source));
    }
    let checkpoint = Checkpoint::open(path)?;
    let source = Hollow::of(checkpoint.source())?;
    Ok((checkpoint.config().clone(), source))
}

fn has_weights(dir: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry.with_context(|| dir.display().to_string())?.path();
        if path.extension().is_some_and(|kind| kind == "safetensors" || kind == "gguf") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What was asked, and of what.
struct Query<'a> {
    args: &'a Args,
    recipe: Recipe,
    config: ModelConfig,
    source: Hollow,
}

impl Task for Query<'_> {
    type Output = ();

    fn run<K: Backend>(self, backend: &K) -> Result<()> {
        let free = backend.free_memory().map_or(usize::MAX, of_free);
        self.answer(
            backend,
            Room { bytes: free, reserve: 0, peak_flops: None, name: "this device" },
        )
    }
}

/// What a device has for a run.
struct Room {
    bytes: usize,
    reserve: usize,
    peak_flops: Option<f64>,
    name: &'static str,
}

#[cfg(feature = "cuda")]
fn on_card(card: Card, query: &Query<'_>) -> Result<()> {
    use crate::memory::RESERVE;
    let info = kernels::DeviceInfo {
        name: card.name.to_owned(),
        compute_capability: card.compute_capability,
        multiprocessors: card.multiprocessors,
        memory: card.memory,
        free: card.memory - RESERVE,
    };
    let room = Room {
        bytes: card.memory - RESERVE,
        reserve: RESERVE,
        peak_flops: card.peak_flops,
        name: card.name,
    };
    query.answer(&kernels::Cuda::dry_run_on(info), room)
}

#[cfg(not(feature = "cuda"))]
fn on_card(card: Card, _: &Query<'_>) -> Result<()> {
    let message = format!(
        "--device {}: what the CUDA kernels take only a binary that has them knows; build it with `cargo build \
         --release --features cuda` (no card is needed), or plan for this processor with --device cpu",
        card.name
    );
    Err(UsageError(message).into())
}

impl Query<'_> {
    fn answer<K: Backend>(&self, backend: &K, room: Room) -> Result<()> {
        let room = match self.recipe.train.memory_budget {
            Budget::Auto => room,
            Budget::Bytes(bytes) => Room { bytes: bytes.saturating_sub(room.reserve), ..room },
        };
        let (rows, length) = self.size();
        let (rows, length) = if self.args.max_seq_len {
            let limit = self.config.context_limit();
            let fits = |length| self.fits(backend, rows, length, room.bytes);
            (rows, most(SHORTEST..limit + 1, fits)?)
        } else if self.args.max_batch {
            (most(1..1 << 20, |rows| self.fits(backend, rows, length, room.bytes))?, length)
        } else {
            (rows, length)
        };
        if rows == 0 || length < SHORTEST {
            let setup = self.setup(rows.max(1), length.max(SHORTEST));
            let least = setup.measure(backend, Keep::LEAST.for_layers(self.layers()))?;
            bail!("not even one fits: it takes {} of {}", size(least.bytes()), size(room.bytes));
        }
        let setup = self.setup(rows, length);
        let choice = setup.choose(backend, room.bytes)?;
        let Choice::Fits(need) = choice else {
            bail!(too_large(&setup, backend, choice.need(), room.bytes)?)
        };
        let least_flops = if Keep::all_of(&need.keep) {
            need.flops
        } else {
            setup.measure(backend, Keep::ALL.for_layers(self.layers()))?.flops
        };
        let report =
            Report { need: &need, least_flops, reserve: room.reserve, peak_flops: room.peak_flops };
        let mut out = std::io::stdout().lock();
        if self.args.json {
            let mut json = report.json();
            json["batch_size"] = rows.into();
            json["seq_len"] = length.into();
            json["budget"] = (room.bytes.saturating_add(room.reserve)).into();
            writeln!(out, "{json:#}").context("standard output")
        } else {
            let parameters = count_parameters(&self.config) as f64 / 1e9;
            let budget = room.bytes.saturating_add(room.reserve);
            let (model, device) = (self.recipe.model.path.display(), room.name);
            writeln!(
                out,
                "{model} ({parameters:.2} B parameters), {rows} x {length} tokens on {device} ({})",
                if budget == usize::MAX {
                    "all the memory it takes".to_owned()
                } else {
                    size(budget)
                }
            )?;
            write!(out, "{}", report.table()).context("standard output")
        }
    }

    fn layers(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn size(&self) -> (usize, usize) {
        let limit = self.config.context_limit();
        let length = self.recipe.data.max_seq_len.unwrap_or(2048).min(limit);
        let rows = match (&self.args.recipe, self.args.batch_size) {
            (None, None) => 1,
            _ => self.recipe.train.batch_size,
        };
        (rows, length)
    }

    fn setup(&self, rows: usize, length: usize) -> Setup<'_> {
        let recipe = &self.recipe;
        let batch: Batch = trained(&vec![length; rows]);
        let window =
            Window { trained_tokens: batch.trained_tokens(), micro_batches: vec![batch.clone()] };
        Setup {
            source: &self.source,
            config: &self.config,
            quantization: Quantization {
                quantize: recipe.model.quantize,
                blocksize: recipe.model.blocksize,
                double_quant: recipe.model.double_quant,
            },
            adapter: match (&recipe.model.adapter, &recipe.lora) {
                (Some(dir), _) => AdapterFrom::Dir(dir),
                (None, lora) => AdapterFrom::Settings(lora.clone().unwrap_or_else(default_lora)),
            },
            workload: Workload {
                train: recipe.train.clone(),
                windows: vec![window],
                evaluated: vec![batch],
                prompts: None,
            },
        }
    }

    fn fits<K: Backend>(
        &self,
        backend: &K,
        rows: usize,
        length: usize,
        budget: usize,
    ) -> Result<bool> {
        let keep = Keep::LEAST.for_layers(self.layers());
        Ok(self.setup(rows, length).measure(backend, keep)?.bytes() <= budget)
    }
}

/// The largest number of a range that fits, where those that do come first; 0 if the first does not.
fn most(range: Range<usize>, fits: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let (mut good, mut bad) = (0, range.start);
    while bad < range.end && fits(bad)? {
        (good, bad) = (bad, 2 * bad);
    }
    bad = bad.min(range.end);
    while bad > good + 1 && good > 0 {
        let middle = good.midpoint(bad);
        if fits(middle)? {
            good = middle;
        } else {
            bad = middle;
        }
    }
    if good + 1 == range.end {
        say(&format!("{good} is the limit of the model, not of the memory"));
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_that_fits_is_found() {
        for limit in [0, 1, 2, 3, 7, 8, 100, 4095] {
            for range in [1..4096, 2..101, 2..3] {
                let expected = if limit < range.start { 0 } else { limit.min(range.end - 1) };
                assert_eq!(
                    most(range.clone(), |n| Ok(n <= limit)).unwrap(),
                    expected,
                    "{limit} {range:?}"
                );
            }
        }
    }
}
