//! A training run's memory, settled before its weights are read.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use data::Dataset;
use kernels::Backend;
use models::weights::Hollow;

use super::{AdapterFrom, Budget, Choice, Need, Setup, Workload, extremes, kept, size};
use crate::base::{Base, Quantization};
use crate::progress::say;
use crate::recipe::Recipe;
use crate::sft::{self, Prompts};

/// Steps among which the largest is looked for.
const WINDOWS: usize = 10_000;

/// Bytes that a run may take of what is free, where nothing is said: the rest is for what is not in buffers, and
/// for other programs.
pub fn of_free(free: usize) -> usize {
    free - free / 32 - (64 << 20).min(free / 32)
}

/// Finds what `recipe` takes on `backend`, says so, and has it reserved.
///
/// Errors when it does not fit, with what would.
pub fn settle<K: Backend>(
    backend: &K,
    recipe: &Recipe,
    base: &Base,
    quantization: Quantization,
    train: &Dataset,
    eval: Option<&Dataset>,
    prompts: Option<&Prompts>,
) -> Result<Need> {
    let source = Hollow::of(base.source())?;
    let plan = sft::Plan::new(&recipe.train, &recipe.data, train);
    let evaluated = eval.map(|eval| eval.largest_batch(recipe.train.batch_size)).transpose()?;
    let setup = Setup {
        source: &source,
        config: base.config(),
        quantization,
        adapter: match (&recipe.model.adapter, &recipe.lora) {
            (Some(dir), _) => AdapterFrom::Dir(dir),
            (None, lora) => AdapterFrom::Settings(lora.clone().unwrap_or_default()),
        },
        workload: Workload {
            train: recipe.train.clone(),
            windows: extremes(plan.windows(train).take(WINDOWS))?,
            evaluated: evaluated.flatten().into_iter().collect(),
            prompts: prompts.cloned(),
        },
    };
    let free = backend.free_memory();
    let budget = match recipe.train.memory_budget {
        Budget::Bytes(bytes) => bytes,
        Budget::Auto => free.map_or(usize::MAX, of_free),
    };
    match setup.choose(backend, budget)? {
        Choice::Fits(need) => {
            let mut text = format!("memory: {}", size(need.bytes()));
            if budget < usize::MAX {
                write!(text, " of {}", size(budget)).expect("strings take everything");
            }
            say(&format!("{text}; {}", kept(&need)));
            backend.reserve(need.usage.extent)?;
            Ok(need)
        }
        Choice::TooLarge(need) => bail!(too_large(&setup, backend, &need, budget)?),
    }
}

/// What is wrong, and what would do.
pub fn too_large<K: Backend>(
    setup: &Setup<'_>,
    backend: &K,
    need: &Need,
    budget: usize,
) -> Result<String> {
    let mut text = format!(
        "the run takes {} ({}), more than the {} it may: of these, one or several may help",
        size(need.bytes()),
        kept(need),
        size(budget)
    );
    for (change, bytes) in setup.smaller(backend)? {
        let fits = if bytes <= budget { ", which fits" } else { "" };
        write!(text, "\n  {change}: {}{fits}", size(bytes)).expect("strings take everything");
    }
    text.push_str("\n  train.memory_budget, or --device, where there is more memory");
    Ok(text)
}
