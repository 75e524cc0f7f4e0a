//! The frozen base of every command that runs a model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data::{Builtin, ChatTemplate, Encoder, SpecialTokens};
use kernels::{Backend, DType};
use models::ModelConfig;
use models::decoder::{Adapter, BaseFormat, Decoder, LoadOptions};
use models::tokenizer::Tokenizer;
use models::weights::{Checkpoint, TensorSource};
use nf4::QuantConfig;

use crate::UsageError;
use crate::device::Device;
use crate::progress::{Progress, warn};
use crate::recipe::{Precision, Quantize};

/// A model on disk with what turns text into its tokens. Weights are read by [`load`](Self::load).
pub struct Base {
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    encoder: Encoder,
    stop_tokens: Vec<u32>,
}

/// How the linears of the decoder layers are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Code book.
    pub quantize: Quantize,
    /// Weights that share one absmax.
    pub blocksize: usize,
    /// Whether absmax is quantized too.
    pub double_quant: bool,
}

impl Quantization {
    fn format(self) -> Result<BaseFormat> {
        Ok(match self.quantize.quant_type() {
            None => BaseFormat::Dense,
            Some(quant_type) => BaseFormat::Quantized(QuantConfig::new(
                quant_type,
                self.blocksize,
                self.double_quant,
            )?),
        })
    }
}

impl Base {
    /// Opens a checkpoint directory or a GGUF file; reads headers, tokenizer and chat template.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, None)
    }

    /// [`open`](Self::open) with another chat template: the name of a built-in one, or the path of a file.
    pub fn open_as(path: &Path, template: Option<&str>) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let mut tokenizer = Tokenizer::open(path)?;
        if let Some(template) = template {
            tokenizer.set_chat_template(template_source(template, &tokenizer)?);
        }
        for warning in checkpoint.config().warnings.iter().chain(tokenizer.warnings()) {
            warn(warning);
        }
        let encoder = encoder(&tokenizer)?;
        let mut stop_tokens = checkpoint.config().eos_token_ids.clone();
        stop_tokens.extend(tokenizer.eos_token_ids());
        // Base models often name another end than the one their template closes answers with.
        stop_tokens.extend(encoder.turn_end());
        Ok(Self { checkpoint, tokenizer, encoder, stop_tokens })
    }

    /// What the weights are shaped by.
    pub fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    /// Turns rows and prompts into tokens.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Turns tokens into text.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Tokens that end an answer.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop_tokens
    }

    /// Parameters of the base.
    pub fn parameters(&self) -> usize {
        count_parameters(self.config())
    }

    /// Reads the weights, for activations of `precision`.
    pub fn load<K: Backend>(
        &self,
        backend: &K,
        quantization: Quantization,
        precision: Precision,
    ) -> Result<Decoder<K>> {
        let source = self.checkpoint.source();
        let progress = Progress::new("loading", source.names().len(), 0);
        let show = |done, _| progress.set(done, String::new);
        load(backend, source, self.config(), quantization, precision, &show)
    }

    /// The weights, to be read.
    pub fn source(&self) -> &dyn TensorSource {
        self.checkpoint.source()
    }
}

/// Reads the weights of a model from `source`; `progress` hears how many tensors are done, and of how many.
pub(crate) fn load<K: Backend>(
    backend: &K,
    source: &dyn TensorSource,
    config: &ModelConfig,
    quantization: Quantization,
    precision: Precision,
    progress: &dyn Fn(usize, usize),
) -> Result<Decoder<K>> {
    let options = LoadOptions {
        format: quantization.format()?,
        narrow: backend.activations() == DType::Bf16
            && precision.resolve(backend) == Precision::Bf16,
        progress,
    };
    Ok(Decoder::load(backend, source, config, &options)?)
}

fn encoder(tokenizer: &Tokenizer) -> Result<Encoder> {
    let named = tokenizer.special_tokens().named();
    let named = named.map(|(name, token)| (name, token.content.as_str()));
    let special =
        SpecialTokens::new(tokenizer.inner(), named)?.with_add_bos(tokenizer.adds_bos_token());
    let template =
        tokenizer.chat_template().map(|source| ChatTemplate::new(source, &special)).transpose()?;
    Ok(Encoder::new(tokenizer.inner(), special, template))
}

fn template_source(template: &str, tokenizer: &Tokenizer) -> Result<String> {
    let path = Path::new(template);
    if path.is_file() {
        return std::fs::read_to_string(path).with_context(|| template.to_owned());
    }
    Ok(Builtin::named(template, tokenizer.inner())?.source.to_owned())
}

/// Elements of all parameters of a model; a tied head counts once.
pub fn count_parameters(config: &ModelConfig) -> usize {
    config.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// As PEFT's `print_trainable_parameters` says it, where all parameters are base and adapter.
pub fn trainable_line(trainable: usize, base: usize) -> String {
    let all = base + trainable;
    let share = 100.0 * trainable as f64 / all as f64;
    let (trainable, all) = (grouped(trainable), grouped(all));
    format!("trainable params: {trainable} || all params: {all} || trainable%: {share:.4}")
}

/// Digits in groups of three.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Options of commands that run a model.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Checkpoint directory or GGUF file.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// PEFT adapter directory.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How the linears are held; weights stored in 4 bit stay as they are.
    #[arg(long, value_enum, default_value_t = Quantize::Nf4)]
    quantize: Quantize,
    /// Weights that share one absmax: a power of two, 32 to 4096.
    #[arg(long, default_value_t = QuantConfig::default().blocksize)]
    blocksize: usize,
    /// Keep absmax in f32.
    #[arg(long)]
    no_double_quant: bool,
    /// Number type of activations.
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,
    /// Where it runs: auto, cpu, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Device,
}

/// A model ready to run.
pub struct Loaded<K: Backend> {
    /// Tokenizer and configuration.
    pub base: Base,
    /// Weights.
    pub decoder: Decoder<K>,
    /// Adapter, if one was given.
    pub adapter: Option<Adapter<K>>,
    /// Number type of activations.
    pub precision: autograd::Precision,
}

impl ModelArgs {
    /// Opens what [`load`](Self::load) will read, so that inputs can be checked before weights are.
    pub fn open(&self) -> Result<Base> {
        let quantization = self.quantization();
        quantization
            .format()
            .map_err(|e| UsageError(format!("--blocksize {}: {e}", self.blocksize)))?;
        // An adapter brings the template that it was trained with.
        let template = self.adapter.as_ref().map(|dir| dir.join("chat_template.jinja"));
        let template = template.filter(|path| path.is_file());
        Base::open_as(&self.model, template.as_deref().and_then(Path::to_str))
    }

    /// The device that was asked for.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Reads weights and adapter.
    pub fn load<K: Backend>(&self, backend: &K, base: Base) -> Result<Loaded<K>> {
        let decoder = base.load(backend, self.quantization(), self.precision)?;
        let adapter = self.adapter.as_ref().map(|dir| Adapter::load(&decoder, dir)).transpose()?;
        Ok(Loaded { base, decoder, adapter, precision: self.precision.on(backend) })
    }

    fn quantization(&self) -> Quantization {
        Quantization {
            quantize: self.quantize,
            blocksize: self.blocksize,
            double_quant: !self.no_double_quant,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trainable_parameters_read_as_in_peft() {
        // PEFT's own line for Llama-2-7B, r = 8 on q_proj and v_proj.
        assert_eq!(
            trainable_line(4_194_304, 6_738_415_616),
            "trainable params: 4,194,304 || all params: 6,742,609,920 || trainable%: 0.0622"
        );
        assert_eq!(
            (grouped(0), grouped(999), grouped(1000)),
            ("0".into(), "999".into(), "1,000".into())
        );
    }
}
