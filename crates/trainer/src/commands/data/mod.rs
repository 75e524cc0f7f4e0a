//! `qlora-train data`: looks at the data of a run without running it.

mod check;
mod show;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

use crate::base::Base;
use crate::recipe::{Override, Recipe};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look for what makes fine-tunes fail: bad and repeated rows, ends that are not learned, second begin tokens,
    /// evaluation rows that are learned... Fails where `train` would refuse the data.
    Check(check::Args),
    /// Show rows as they are learned, the trained tokens in colour.
    Show(show::Args),
}

/// The data and the model that a recipe names.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// What to do, in TOML.
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// The base, of which the tokenizer is read [recipe: model.path].
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Rows to learn [recipe: data.path].
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Set any field of the recipe, e.g. data.packing=true. The value is TOML or a bare string.
    #[arg(long = "set", value_name = "K=V")]
    overrides: Vec<Override>,
}

impl RunArgs {
    fn open(&self) -> Result<(Recipe, Base)> {
        let mut overrides = self.overrides.clone();
        for (option, section, path) in
            [("--model", "model", &self.model), ("--data", "data", &self.data)]
        {
            overrides
                .extend(path.as_ref().map(|path| Override::path(option, section, "path", path)));
        }
        let recipe = Recipe::read_inputs(&self.recipe, &overrides)?;
        let base = Base::open_as(&recipe.model.path, recipe.data.chat_template.as_deref())?;
        Ok((recipe, base))
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::Show(args) => show::run(args),
    }
}
