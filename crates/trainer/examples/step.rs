//! What a training step of a large model costs, without its weights: an NF4 base of random values in the
//! shape of a known model. Prints one line of JSON.
//!
//!     step SHAPE DEVICE TOKENS STEPS [--recompute]
//!     step SHAPE DEVICE --products TOKENS
//!
//! SHAPE is `tiny`, `llama-3.2-1b`, `llama-2-7b` or `llama-3.1-8b`; TOKENS is `rows x length`. The second
//! times the products with 4-bit weights alone on a card, in each of the ways that they can be done.

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use data::rows::Place;
use data::{Batch, Example, Window};
use half::bf16;
use kernels::{Backend, Philox};
use models::decoder::{Adapter, BaseFormat, Decoder, Keep, LoadOptions};
use models::weights::{TensorInfo, TensorSource};
use models::{HostData, HostTensor, LoraConfig, ModelConfig};
use nf4::{QuantConfig, QuantizedTensor};
use trainer::device::{Device, Task};
use trainer::recipe::{Precision, TrainSection};
use trainer::schedule::Schedule;
use trainer::sft::{SftTrainer, StepSettings};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shape, device, tokens, steps, rest @ ..] = args.as_slice() else {
        bail!("usage: step SHAPE DEVICE ROWSxLENGTH STEPS [--recompute]");
    };
    if tokens == "--products" {
        println!("{}", products(shape, device, steps.parse()?)?);
        return Ok(());
    }
    let (rows, length) = tokens.split_once('x').context("TOKENS is ROWSxLENGTH")?;
    let device: Device = device.parse().map_err(anyhow::Error::msg)?;
    let cost = Cost {
        shape,
        rows: rows.parse()?,
        length: length.parse()?,
        steps: steps.parse()?,
        recompute: rest.iter().any(|option| option == "--recompute"),
    };
    println!("{}", device.run(cost)?);
    Ok(())
}

/// Teraflops a second of the products of `tokens` rows with each shape of weight.
#[cfg(feature = "cuda")]
fn products(shape: &str, device: &str, tokens: usize) -> Result<serde_json::Value> {
    let Ok(Device::Cuda(number)) = device.parse() else { bail!("{device} is no card") };
    let mut weights: Vec<(usize, usize)> = config(shape)?
        .linears()
        .iter()
        .map(|linear| (linear.out_features, linear.in_features))
        .collect();
    weights.sort_unstable();
    weights.dedup();
    let mut rows = Vec::new();
    let cuda = kernels::Cuda::new(number)?;
    let with_cublas = kernels::Cuda::has_cublas();
    kernels::Routes::measure(&cuda, &weights, &[tokens], with_cublas, |timing| {
        let kernels::RouteEntry { n, k, backward, rows: m, .. } = timing.entry;
        let rate = |seconds: f64| 2e-12 * (m * n * k) as f64 / seconds;
        rows.push(serde_json::json!({
            "n": n, "k": k, "backward": backward, "tokens": m,
            "fused_tflops": rate(timing.fused), "dequantized_tflops": rate(timing.dequantized),
            "cublas_tflops": timing.cublas.map(rate),
        }));
    })?;
    Ok(rows.into())
}

#[cfg(not(feature = "cuda"))]
fn products(_: &str, _: &str, _: usize) -> Result<serde_json::Value> {
    bail!("this binary was built without CUDA");
}

/// What to measure.
struct Cost<'a> {
    shape: &'a str,
    rows: usize,
    length: usize,
    steps: usize,
    recompute: bool,
}

impl Task for Cost<'_> {
    type Output = serde_json::Value;

    fn run<K: Backend>(self, backend: &K) -> Result<serde_json::Value> {
        let config = config(self.shape)?;
        let source = Random { config: &config, made: Mutex::default() };
        let options = LoadOptions {
            format: BaseFormat::Quantized(QuantConfig::default()),
            narrow: Precision::Auto.resolve(backend) == Precision::Bf16,
            progress: &|_, _| (),
        };
        let decoder = Decoder::load(backend, &source, &config, &options)?;
        let adapter = Adapter::init(&decoder, &LoraConfig { r: 16, ..LoraConfig::default() }, 42)?;
        let train = TrainSection::default();
        let schedule = Schedule::new(&train, self.steps + 1);
        let keep = if self.recompute { Keep::NOTHING } else { Keep::ALL };
        let keep = keep.for_layers(config.num_hidden_layers);
        let settings = StepSettings::new(backend, &train, keep);
        let mut trainer = SftTrainer::new(&decoder, adapter, schedule, settings)?;
        let window = window(self.rows, self.length, config.vocab_size);
        let mut seconds = Vec::new();
        let mut losses = Vec::new();
        // The first allocates.
        for _ in 0..=self.steps {
            let start = Instant::now();
            losses.push(trainer.step(&window)?.loss);
            seconds.push(start.elapsed().as_secs_f64());
        }
        let mut later = seconds[1..].to_vec();
        later.sort_by(f64::total_cmp);
        let median = later.get(later.len() / 2).copied().unwrap_or(seconds[0]);
        let live = backend.memory();
        Ok(serde_json::json!({
            "shape": self.shape,
            "tokens": self.rows * self.length,
            "recompute": self.recompute,
            "tokens_per_second": (self.rows * self.length) as f64 / median,
            "seconds": seconds,
            "peak_gb": live.peak as f64 / 1e9,
            "losses": losses,
        }))
    }
}

fn config(shape: &str) -> Result<ModelConfig> {
    let (hidden, intermediate, layers, heads, kv_heads, vocab, tied) = match shape {
        "tiny" => (128, 256, 2, 2, 1, 512, true),
        "llama-3.2-1b" => (2048, 8192, 16, 32, 8, 128_256, true),
        "llama-2-7b" => (4096, 11_008, 32, 32, 32, 32_000, false),
        "llama-3.1-8b" => (4096, 14_336, 32, 32, 8, 128_256, false),
        _ => bail!("no shape is called {shape}"),
    };
    let fields = serde_json::json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "hidden_act": "silu",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    });
    Ok(ModelConfig::from_json(&fields.to_string(), Path::new(shape))?)
}

/// Rows of arbitrary tokens, all of them trained.
fn window(rows: usize, length: usize, vocab: usize) -> Window {
    let example = |row: usize| {
        let ids: Vec<u32> = (0..length).map(|i| ((31 * row + 17 * i) % vocab) as u32).collect();
        Example { labels: ids.clone(), input_ids: ids, place: Place::default() }
    };
    let examples: Vec<Example> = (0..rows).map(example).collect();
    let batch = Batch::new(&examples);
    Window { trained_tokens: batch.trained_tokens(), micro_batches: vec![batch] }
}

/// Weights of random values; linears of one shape have the same.
struct Random<'a> {
    config: &'a ModelConfig,
    made: Mutex<Vec<QuantizedTensor>>,
}

impl Random<'_> {
    fn linear(&self, shape: &[usize]) -> Result<QuantizedTensor, nf4::Error> {
        let mut made = self.made.lock().expect("nothing panics while it is held");
        if let Some(found) = made.iter().find(|tensor| tensor.shape() == shape) {
            return Ok(found.clone());
        }
        let scale = 1.0 / (shape[1] as f32).sqrt();
        let tensor =
            nf4::quantize("random", &normal(shape, scale), shape, &QuantConfig::default())?;
        made.push(tensor.clone());
        Ok(tensor)
    }
}

fn normal(shape: &[usize], scale: f32) -> Vec<f32> {
    let philox = Philox::new(1, 0);
    // Enough to look random, and no divisor of a row; drawing each would take minutes.
    let drawn: Vec<f32> = (0..65_521).map(|i| scale * philox.normal(i)).collect();
    drawn.iter().copied().cycle().take(shape.iter().product()).collect()
}

impl TensorSource for Random<'_> {
    fn path(&self) -> &Path {
        Path::new("random")
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn info(&self, _: &str) -> Option<TensorInfo> {
        None
    }

    fn read(&self, name: &str) -> models::Result<HostTensor<'_>> {
        let ModelConfig { vocab_size: vocab, hidden_size: hidden, intermediate_size: wide, .. } =
            *self.config;
        let (query, key) = (self.config.query_size(), self.config.key_value_size());
        let shape = match name.trim_end_matches(".weight").rsplit('.').next() {
            Some("embed_tokens" | "lm_head") => vec![vocab, hidden],
            Some("q_proj") => vec![query, hidden],
            Some("k_proj" | "v_proj") => vec![key, hidden],
            Some("o_proj") => vec![hidden, query],
            Some("gate_proj" | "up_proj") => vec![wide, hidden],
            Some("down_proj") => vec![hidden, wide],
            _ => vec![hidden],
        };
        let data = match shape.as_slice() {
            [len] => HostData::F32(vec![1.0; *len].into()),
            [rows, _] if *rows == vocab => {
                let values = normal(&shape, 0.02);
                HostData::Bf16(values.into_iter().map(bf16::from_f32).collect::<Vec<_>>().into())
            }
            _ => HostData::Quantized(self.linear(&shape).expect("a shape of a known model")),
        };
        Ok(HostTensor { shape, data })
    }
}
