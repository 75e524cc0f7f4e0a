//! The command line.

use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kernels::CpuLevel;

use crate::commands::{
    autotune, data, demo_data, device, eval, generate, inspect, plan, quantize, report, train,
};
use crate::log::LogArgs;

/// Fine-tune 4-bit language models with LoRA: one native binary, no Python.
#[derive(Debug, Parser)]
#[command(name = "qlora-train", version, max_term_width = 100)]
pub struct Cli {
    /// Worker threads [default: all processors]. Results do not depend on it.
    #[arg(long, global = true, value_name = "N")]
    threads: Option<NonZeroUsize>,
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fine-tune a model as a recipe says.
    Train(train::Args),
    /// Say what a run takes of a device's memory, with what it keeps and what it computes again.
    Plan(plan::Args),
    /// Write a checkpoint in 4 bit, for transformers and bitsandbytes.
    Quantize(quantize::Args),
    /// Let a model answer.
    Generate(generate::Args),
    /// Measure a model on rows of data.
    Eval(eval::Args),
    /// Look at the data of a run without running it.
    Data(data::Args),
    /// Draw report.html from what a run has measured so far.
    Report(report::Args),
    /// Say what a model, an adapter or a data file holds.
    Inspect(inspect::Args),
    /// Say what this binary can run on.
    Device(device::Args),
    /// Measure on a card how to multiply by a model's 4-bit weights fastest, and keep to it from then on.
    Autotune(autotune::Args),
    /// Write the demonstration data set.
    DemoData(demo_data::Args),
}

impl Cli {
    /// Reads the command line; usage errors and `--help` end the process as clap does.
    pub fn from_command_line() -> Self {
        Self::parse()
    }

    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        self.log.init()?;
        // A level that there is none of is an error of commands that multiply nothing too.
        CpuLevel::of_process()?;
        if let Some(threads) = self.threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads.get())
                .build_global()
                .with_context(|| format!("cannot start {threads} threads"))?;
        }
        // Within the pool: from outside, each loop of rayon would put this thread to sleep and wake another.
        rayon::scope(|_| self.command.run())
    }
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Train(args) => train::run(args),
            Self::Plan(args) => plan::run(&args),
            Self::Quantize(args) => quantize::run(&args),
            Self::Generate(args) => generate::run(&args),
            Self::Eval(args) => eval::run(&args),
            Self::Data(args) => data::run(&args),
            Self::Report(args) => report::run(&args),
            Self::Inspect(args) => inspect::run(&args),
            Self::Device(args) => device::run(&args),
            Self::Autotune(args) => autotune::run(&args),
            Self::DemoData(args) => demo_data::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
