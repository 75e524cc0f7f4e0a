//! `qlora-train generate`: lets a model answer.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use data::rows::{Chat, Message, Role};
use kernels::Backend;
use models::generate::{GenerateOptions, Sampling, generate};

use crate::UsageError;
use crate::base::{Base, ModelArgs};
use crate::device::Task;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// A user's message, or with --raw a text to continue.
    #[arg(long, value_name = "TEXT", required_unless_present = "messages")]
    prompt: Option<String>,
    /// A conversation in JSON: a list of {"role", "content"}, or an object with such a list as "messages".
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "raw"])]
    messages: Option<PathBuf>,
    /// Most tokens to answer with.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// Divides the logits before a token is drawn; 0 takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Draw among the most likely tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// Seed of the draws.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Continue the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
}

impl Args {
    fn sampling(&self) -> Result<Sampling> {
        let Self { temperature, top_p, seed, .. } = *self;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let message = format!("--temperature {temperature}: must be finite and not negative");
            return Err(UsageError(message).into());
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(
                UsageError(format!("--top-p {top_p}: must be above 0 and at most 1")).into()
            );
        }
        Ok(Sampling { temperature, top_p, seed })
    }

    fn prompt_ids(&self, base: &Base) -> Result<Vec<u32>> {
        let ids = match (&self.messages, &self.prompt) {
            (Some(path), _) => base.encoder().prompt_ids(&Chat::read(path)?),
            (None, Some(prompt)) if self.raw => base.encoder().text_ids(prompt),
            (None, Some(prompt)) => {
                base.encoder().prompt_ids(&vec![Message::new(Role::User, prompt)].into())
            }
            (None, None) => unreachable!("clap asks for one of them"),
        }?;
        let context = base.config().context_limit();
        anyhow::ensure!(
            ids.len() < context,
            "the prompt has {} tokens, which leaves no room in the model's context of {context}; shorten it",
            ids.len()
        );
        Ok(ids)
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let sampling = args.sampling()?;
    let base = args.model.open()?;
    let prompt = args.prompt_ids(&base)?;
    args.model.device().run(Answer { args, sampling, base, prompt })
}

/// The answer to one prompt, printed as it comes.
struct Answer<'a> {
    args: &'a Args,
    sampling: Sampling,
    base: Base,
    prompt: Vec<u32>,
}

impl Task for Answer<'_> {
    type Output = ();

    fn run<K: Backend>(self, backend: &K) -> Result<()> {
        let loaded = self.args.model.load(backend, self.base)?;
        let options = GenerateOptions {
            max_new_tokens: self.args.max_new_tokens,
            sampling: self.sampling,
            stop_tokens: loaded.base.stop_tokens().to_vec(),
            precision: loaded.precision,
        };
        let mut text = loaded.base.tokenizer().decode_stream(true);
        let mut written = Ok(());
        let prompts = [self.prompt];
        generate(&loaded.decoder, loaded.adapter.as_ref(), &prompts, &options, |_, token| {
            written = text.step(token).map_err(Into::into).and_then(|piece| print(&piece));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        written?;
        print(&format!("{}\n", text.finish()?))
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
