//! `qlora-train train`: fine-tunes a model as a recipe says.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use data::preflight::Report;
use data::rows::Format;
use data::score::Scores;
use data::{Dataset, PromptFormat};
use kernels::{Backend, MemoryUsage};
use models::decoder::{Adapter, Decoder};

use super::resume;
use crate::UsageError;
use crate::base::{Base, Quantization};
use crate::checkpoint::{Checkpoint, Identity};
use crate::device::{Device, Task};
use crate::memory::{Budget, settle};
use crate::metrics::peak_rss_bytes;
use crate::prepare::{Prepared, prepare};
use crate::profile::Profile;
use crate::progress::{say, warn};
use crate::recipe::{ModelSection, Override, Precision, Quantize, Recipe};
use crate::sft::{self, Job, Output, Prompts, Summary};
use crate::stop::{Stops, parse_time};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do, in TOML.
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// The frozen base: checkpoint directory or GGUF file [recipe: model.path].
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Rows to learn: a file or a directory [recipe: data.path].
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Directory for what the run writes [recipe: output.dir].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Hand each step to the card as CUDA graphs [recipe: `train.cuda_graphs` = true].
    #[arg(long)]
    cuda_graphs: bool,
    /// Memory of the device that the run may take, such as 22GiB, or auto [recipe: `train.memory_budget`].
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<Budget>,
    /// Set any field of the recipe, e.g. train.learning_rate=1e-4. The value is TOML or a bare string.
    #[arg(long = "set", value_name = "K=V")]
    overrides: Vec<Override>,
    /// Where to train: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Device,
    /// Print what the steps spend their time on, and write the last ones' timeline to DIR/trace.json
    /// (Perfetto, `chrome://tracing`). On the CPU only.
    #[arg(long)]
    profile: bool,
    /// Go on where an earlier run into the same directory stopped: from its newest whole checkpoint, or from DIR.
    /// Without any, begin.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = resume::NEWEST)]
    resume: Option<PathBuf>,
    /// Go on although this is not what it was, e.g. `train.max_steps`, `data.path`, `device`. May be given more than once.
    #[arg(long, value_name = "FIELD", requires = "resume")]
    allow_change: Vec<String>,
    /// Save and stop when this much time has passed, e.g. 90m or 1h30m.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    max_time: Option<Duration>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    // A time beyond what the clock can hold is none.
    let deadline = args.max_time.and_then(|time| Instant::now().checked_add(time));
    let mut profile = profile(&args)?;
    let mut overrides = args.overrides;
    for (option, section, field, path) in [
        ("--model", "model", "path", &args.model),
        ("--data", "data", "path", &args.data),
        ("--output", "output", "dir", &args.output),
    ] {
        overrides.extend(path.as_ref().map(|path| Override::path(option, section, field, path)));
    }
    if let Some(budget) = args.memory_budget {
        let text = budget.to_string();
        overrides.push(Override::text("--memory-budget", "train", "memory_budget", text));
    }
    if args.cuda_graphs {
        overrides.push(Override::on("--cuda-graphs", "train", "cuda_graphs"));
    }
    let recipe = Recipe::read(&args.recipe, &overrides)?;
    let output = match &args.resume {
        None => Output::check(&recipe)?,
        Some(_) => Output::resume(&recipe)?,
    };
    let resume = args.resume.as_deref();
    let checkpoint = resume.map(|dir| resume::find(dir, &output)).transpose()?.flatten();

    let base = Base::open_as(&recipe.model.path, recipe.data.chat_template.as_deref())?;
    let mut output = output.with_tokenizer(base.tokenizer().clone());
    let Prepared { train, eval, format, report } = prepare(&recipe, &base)?.refuse(&recipe.data)?;
    let quantization = Quantization {
        quantize: recipe.model.quantize,
        blocksize: recipe.model.blocksize,
        double_quant: recipe.model.double_quant,
    };
    let device = if args.device.is_cuda() { "cuda" } else { "cpu" };
    let task = Fit {
        identity: Identity::of(&recipe, device)?,
        recipe: &recipe,
        output: &mut output,
        base,
        quantization,
        train,
        eval,
        preflight: &report,
        checkpoint: checkpoint.as_ref(),
        allowed: &args.allow_change,
        deadline,
        profile: profile.as_mut(),
    };
    let (summary, memory) = args.device.run(task).map_err(advise)?;
    // The run itself is over and stored; a page that cannot be written is no reason to fail.
    if let Err(error) = crate::report::write(&recipe.output.dir) {
        warn(&format!("no report.html: {}", crate::describe(&error)));
    }
    if let Some(stop) = summary.stopped {
        return resume::stopped(stop, &summary, args.resume.as_deref());
    }
    print_summary(&recipe, format, &summary, memory.peak, &output)?;
    profile.map_or(Ok(()), |profile| show(&profile, &output))
}

/// The profile to fill, if one is asked for.
fn profile(args: &Args) -> Result<Option<Profile>> {
    if args.profile && args.device.is_cuda() {
        let message = "--profile: a card works while the program goes on, so that times taken here are those of \
                       launches; profile it with scripts/profile-nsys.sh, or train with --device cpu";
        return Err(UsageError(message.to_owned()).into());
    }
    Ok(args.profile.then(Profile::default))
}

fn show(profile: &Profile, output: &Output) -> Result<()> {
    if profile.steps() == 0 {
        warn("nothing to profile: the first step is left out, and there is no other");
        return Ok(());
    }
    let trace = output.trace();
    profile.write_trace(&trace)?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", profile.table())?;
    writeln!(out, "timeline of the last steps: {}", trace.display()).context("standard output")
}

/// Says what makes a run smaller where memory ran out.
fn advise(error: anyhow::Error) -> anyhow::Error {
    // The layers between pass the error of the kernels on as their own, so its text is what is left.
    if !error.chain().any(|cause| cause.to_string().starts_with("out of memory: ")) {
        return error;
    }
    error.context(
        "the run does not fit the device: train.gradient_checkpointing = true, a smaller train.batch_size \
         (with more train.gradient_accumulation_steps), a smaller data.max_seq_len or lora.r, train.optim = \"adamw_8bit\" take less",
    )
}

/// The run itself.
struct Fit<'a> {
    recipe: &'a Recipe,
    identity: Identity,
    output: &'a mut Output,
    base: Base,
    quantization: Quantization,
    train: Dataset,
    eval: Option<Dataset>,
    preflight: &'a Report,
    checkpoint: Option<&'a Checkpoint>,
    allowed: &'a [String],
    deadline: Option<Instant>,
    profile: Option<&'a mut Profile>,
}

impl Task for Fit<'_> {
    type Output = (Summary, MemoryUsage);

    fn run<K: Backend>(self, backend: &K) -> Result<(Summary, MemoryUsage)> {
        let Self { identity, output, base, train, eval, checkpoint, profile, .. } = self;
        let recipe = &resolved(backend, self.recipe);
        if let Some(checkpoint) = checkpoint {
            resume::compare(checkpoint, recipe, &identity, self.allowed)?;
        }
        let quantization = self.quantization;
        let (eval, prompts) = (eval.as_ref(), prompts(recipe, &base, eval.as_ref())?);
        let prompts = prompts.as_ref();
        let need = settle(backend, recipe, &base, quantization, &train, eval, prompts)?;
        let decoder = base.load(backend, quantization, recipe.train.precision)?;
        let adapter = match checkpoint {
            None => adapter(recipe, &decoder)?,
            Some(checkpoint) => Adapter::load(&decoder, &checkpoint.adapter())?,
        };
        let (trainable, all) = (adapter.params().numel(), base.parameters());
        say(&crate::base::trainable_line(trainable, all));
        output.start(recipe)?;
        let preflight = serde_json::to_vec_pretty(self.preflight)?;
        models::weights::write_bytes(&output.preflight(), &preflight)?;
        let job = Job {
            recipe,
            identity,
            train_set: &train,
            eval_set: eval,
            prompts,
            keep: need.keep,
            output,
            checkpoint,
            stops: Stops::listen(self.deadline)?,
            profile,
        };
        let summary = sft::train(&decoder, adapter, job)?;
        Ok((summary, backend.memory()))
    }
}

/// What the model is to answer before and after; nothing without rows to judge by.
fn prompts(recipe: &Recipe, base: &Base, eval: Option<&Dataset>) -> Result<Option<Prompts>> {
    let Some(eval) = eval else { return Ok(None) };
    let size = (recipe.output.samples, recipe.output.sample_tokens);
    let prompts = Prompts::of(eval, size, base.tokenizer(), base.stop_tokens())?;
    Ok((!prompts.is_empty()).then_some(prompts))
}

/// The recipe with what the backend settles.
fn resolved<K: Backend>(backend: &K, recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    recipe.train.precision = recipe.train.precision.resolve(backend);
    recipe
}

fn adapter<K: Backend>(recipe: &Recipe, decoder: &Decoder<K>) -> Result<Adapter<K>> {
    match (&recipe.model.adapter, &recipe.lora) {
        (Some(dir), _) => Ok(Adapter::load(decoder, dir)?),
        (None, Some(lora)) => Ok(Adapter::init(decoder, lora, recipe.train.seed)?),
        (None, None) => unreachable!("a recipe without an adapter has LoRA settings"),
    }
}

fn print_summary(
    recipe: &Recipe,
    format: Format,
    summary: &Summary,
    buffers: usize,
    output: &Output,
) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let seconds = summary.elapsed.as_secs_f64();
    writeln!(out, "{} steps in {seconds:.1} s", summary.steps)?;
    writeln!(out, "  loss         {:.4} -> {:.4}", summary.first_loss, summary.last_loss)?;
    if let [(_, before), .., (_, after)] = summary.evaluations.as_slice() {
        let (p, q) = (before.perplexity(), after.perplexity());
        writeln!(
            out,
            "  eval loss    {:.4} -> {:.4} (perplexity {p:.3} -> {q:.3})",
            before.loss, after.loss
        )?;
    }
    if let Some(scores) = &summary.scores {
        let mut line = |name: &str, of: fn(&Scores) -> Option<f64>| match scores.each_ref().map(of)
        {
            [Some(before), Some(after)] => {
                writeln!(out, "  {name}  {:.1} % -> {:.1} %", 100.0 * before, 100.0 * after)
            }
            _ => Ok(()),
        };
        line("exact match", |scores| Some(scores.exact_match))?;
        line("same number", |scores| scores.number_match)?;
        line("F1 of words", |scores| Some(scores.f1))?;
    }
    let speed = summary.tokens as f64 / summary.step_time.as_secs_f64();
    writeln!(out, "  speed        {speed:.0} tokens/s over {} tokens", summary.tokens)?;
    if summary.skipped > 0 {
        writeln!(out, "  passed over  {} steps, named in metrics.jsonl", summary.skipped)?;
    }
    if let Some(bytes) = peak_rss_bytes() {
        writeln!(out, "  peak memory  {:.2} GB", bytes as f64 / 1e9)?;
    }
    writeln!(out, "  peak tensors {:.2} GB", buffers as f64 / 1e9)?;
    if summary.checkpoints > 0 {
        let waited = summary.blocked.as_secs_f64();
        let share = 100.0 * waited / seconds;
        let count = summary.checkpoints;
        writeln!(
            out,
            "  checkpoints  {count}, for which training stood still {waited:.2} s ({share:.1} %)"
        )?;
    }
    let adapter = output.adapter();
    let which = if summary.evaluations.is_empty() {
        "the last; there were no rows to evaluate on".to_owned()
    } else {
        format!("the best by eval loss, of step {}", summary.best_step)
    };
    writeln!(out, "  adapter      {} ({which})", adapter.display())?;
    writeln!(out, "  last adapter {}", output.last_adapter().display())?;
    writeln!(out, "  report       {}", recipe.output.dir.join(crate::report::REPORT).display())?;
    writeln!(out, "try it:")?;
    writeln!(out, "  {}", try_it(recipe, format, &adapter)).context("standard output")
}

/// A command that runs the adapter on the base and in the format that it was trained on.
fn try_it(recipe: &Recipe, format: Format, adapter: &Path) -> String {
    let ModelSection { path, quantize, blocksize, double_quant, .. } = &recipe.model;
    let program = std::env::args_os().next().map_or_else(|| "qlora-train".into(), PathBuf::from);
    let [program, path, adapter] = [program.as_path(), path, adapter].map(quoted);
    let mut command = format!("{program} generate --model {path} --adapter {adapter}");
    if *quantize != Quantize::default() {
        let name = quantize.to_possible_value().expect("all are on the command line");
        write!(command, " --quantize {}", name.get_name()).expect("strings take everything");
    }
    if *blocksize != ModelSection::default().blocksize {
        write!(command, " --blocksize {blocksize}").expect("strings take everything");
    }
    if !double_quant {
        command.push_str(" --no-double-quant");
    }
    if recipe.train.precision != Precision::Auto {
        let name = recipe.train.precision.to_possible_value().expect("all are on the command line");
        write!(command, " --precision {}", name.get_name()).expect("strings take everything");
    }
    if format == Format::Completion && recipe.data.prompt_format == PromptFormat::Plain {
        command.push_str(" --raw");
    }
    command.push_str(" --prompt \"...\"");
    command
}

/// As one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
