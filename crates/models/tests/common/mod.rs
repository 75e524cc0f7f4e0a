//! Tiny reference models: Hugging Face directories with the numbers that transformers, PEFT and
//! bitsandbytes give for them (see `tests/fixtures/README.md` at the root).

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use autograd::{ParamGrads, Precision, Tape};
use half::bf16;
use kernels::ops::IGNORE;
use kernels::{Backend, Cpu, HostSlice, MemoryKind};
use models::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use models::decoder::{Adapter, BaseFormat, Decoder, ForwardOptions, LoadOptions};
use models::weights::Checkpoint;
use models::{LoraConfig, ModelConfig};
use nf4::{QuantConfig, QuantType};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// A folder of `tests/fixtures`.
pub(crate) fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

/// Named tensors of a reference file, widened to f64 exactly.
pub(crate) struct Reference {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    pub(crate) json: Value,
}

impl Reference {
    pub(crate) fn open(folder: &str, stem: &str) -> Self {
        let dir = fixture(folder);
        let bytes = std::fs::read(dir.join(format!("{stem}.safetensors"))).expect("fixture");
        let file = SafeTensors::deserialize(&bytes).expect("fixture");
        let tensors = file
            .iter()
            .filter_map(|(name, view)| {
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::F32 => data
                        .chunks_exact(4)
                        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                        .collect(),
                    Dtype::U8 => data.iter().map(|&b| b.into()).collect(),
                    Dtype::BF16 => data
                        .chunks_exact(2)
                        .map(|b| f64::from(bf16::from_le_bytes(b.try_into().unwrap()).to_f32()))
                        .collect(),
                    Dtype::I64 => data
                        .chunks_exact(8)
                        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64)
                        .collect(),
                    _ => return None,
                };
                Some((name.to_owned(), (view.shape().to_vec(), values)))
            })
            .collect();
        let json = std::fs::read(dir.join(format!("{stem}.json"))).expect("fixture");
        Self { tensors, json: serde_json::from_slice(&json).expect("fixture") }
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no {name}")).0
    }

    pub(crate) fn values(&self, name: &str) -> &[f64] {
        &self.tensors.get(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    pub(crate) fn names(&self, prefix: &str) -> Vec<&str> {
        self.tensors.keys().filter(|k| k.starts_with(prefix)).map(String::as_str).collect()
    }

    /// Rows of token ids.
    pub(crate) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        let cols = *self.shape(name).last().unwrap();
        self.values(name).chunks(cols).map(|row| row.iter().map(|&x| x as u32).collect()).collect()
    }

    pub(crate) fn number(&self, name: &str) -> f64 {
        self.json[name].as_f64().unwrap_or_else(|| panic!("no {name}"))
    }
}

/// Rows of ids, and the label of each id before the shift (`None` is not trained).
pub(crate) struct Rows {
    pub(crate) ids: Vec<Vec<u32>>,
    pub(crate) labels: Vec<Vec<Option<u32>>>,
}

impl Rows {
    /// Every token trained.
    pub(crate) fn all_trained(ids: Vec<Vec<u32>>) -> Self {
        let labels = ids.iter().map(|row| row.iter().copied().map(Some).collect()).collect();
        Self { ids, labels }
    }

    pub(crate) fn flat_ids(&self) -> Vec<u32> {
        self.ids.concat()
    }

    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.ids.iter().map(Vec::len).collect()
    }

    /// Each position's next token, the last position of a row ignored.
    pub(crate) fn shifted(&self) -> Vec<u32> {
        let shift = |row: &Vec<Option<u32>>| -> Vec<u32> {
            let next = row[1..].iter().map(|label| label.unwrap_or(IGNORE));
            next.chain([IGNORE]).collect()
        };
        self.labels.iter().flat_map(shift).collect()
    }

    pub(crate) fn trained(&self) -> usize {
        self.shifted().iter().filter(|&&label| label != IGNORE).count()
    }
}

pub(crate) fn nf4_base(double_quant: bool) -> BaseFormat {
    BaseFormat::Quantized(QuantConfig::new(QuantType::Nf4, 64, double_quant).unwrap())
}

pub(crate) fn load(model: &str, format: BaseFormat) -> Decoder<Cpu> {
    load_with(model, format, |config| config)
}

pub(crate) fn load_with(
    model: &str,
    format: BaseFormat,
    change: impl FnOnce(ModelConfig) -> ModelConfig,
) -> Decoder<Cpu> {
    let dir = fixture("models").join(model);
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let config = change(checkpoint.config().clone());
    let options = LoadOptions { format, narrow: false, progress: &|_, _| () };
    Decoder::load(&Cpu::new(), checkpoint.source(), &config, &options).unwrap()
}

/// The adapter of a fixture.
pub(crate) fn adapter(decoder: &Decoder<Cpu>, folder: &str) -> Adapter<Cpu> {
    Adapter::load(decoder, &fixture("models").join(folder)).unwrap()
}

/// The adapter of a fixture with dropout on its inputs.
pub(crate) fn adapter_with_dropout(
    decoder: &Decoder<Cpu>,
    folder: &str,
    lora_dropout: f64,
) -> Adapter<Cpu> {
    let (from, dir) = (fixture("models").join(folder), tempfile::tempdir().unwrap());
    let config = std::fs::read_to_string(from.join(CONFIG_FILE)).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["lora_dropout"] = lora_dropout.into();
    std::fs::write(dir.path().join(CONFIG_FILE), config.to_string()).unwrap();
    std::fs::copy(from.join(WEIGHTS_FILE), dir.path().join(WEIGHTS_FILE)).unwrap();
    Adapter::load(decoder, dir.path()).unwrap()
}

/// A fresh adapter whose values come from `value(param name)`.
pub(crate) fn adapter_with(
    decoder: &Decoder<Cpu>,
    config: &LoraConfig,
    value: impl Fn(&str, usize) -> Vec<f32>,
) -> Adapter<Cpu> {
    let mut adapter = Adapter::init(decoder, config, 0).unwrap();
    for param in adapter.params_mut().iter_mut() {
        let values = value(&param.name, param.shape.iter().product());
        param.value =
            decoder.backend().upload(HostSlice::F32(&values), MemoryKind::Adapters).unwrap();
    }
    adapter
}

/// f32 logits of the first row.
pub(crate) fn logits(
    decoder: &Decoder<Cpu>,
    adapter: Option<&Adapter<Cpu>>,
    rows: &Rows,
) -> Vec<f32> {
    let inputs = decoder.inputs(&rows.flat_ids(), &rows.lengths()).unwrap();
    let mut tape = Tape::inference(decoder.backend(), Precision::F32);
    let hidden = decoder.hidden(&mut tape, &inputs, adapter, ForwardOptions::default()).unwrap();
    let first: Vec<u32> = (0..rows.ids[0].len() as u32).collect();
    decoder.logits(&mut tape, &hidden, &first).unwrap()
}

/// Sum of losses divided by `trained`, without a backward pass.
pub(crate) fn eval_loss(
    decoder: &Decoder<Cpu>,
    adapter: Option<&Adapter<Cpu>>,
    rows: &Rows,
) -> f64 {
    let inputs = decoder.inputs(&rows.flat_ids(), &rows.lengths()).unwrap();
    let mut tape = Tape::inference(decoder.backend(), Precision::F32);
    let hidden = decoder.hidden(&mut tape, &inputs, adapter, ForwardOptions::default()).unwrap();
    let losses = decoder.losses(&mut tape, &hidden, &rows.shifted(), 1.0).unwrap();
    losses.sum() / rows.trained() as f64
}

/// Loss of one forward and backward pass, whose gradients are added to `grads`; both are divided by
/// `trained`.
pub(crate) fn train_pass(
    decoder: &Decoder<Cpu>,
    adapter: &Adapter<Cpu>,
    rows: &Rows,
    trained: usize,
    options: ForwardOptions,
    precision: Precision,
    grads: &mut ParamGrads<Cpu>,
) -> f64 {
    let inputs = decoder.inputs(&rows.flat_ids(), &rows.lengths()).unwrap();
    let mut tape = Tape::training(decoder.backend(), precision);
    let hidden = decoder.hidden(&mut tape, &inputs, Some(adapter), options).unwrap();
    let scale = 1.0 / trained as f32;
    let losses = decoder.losses(&mut tape, &hidden, &rows.shifted(), scale).unwrap();
    drop(hidden);
    tape.backward(grads).unwrap();
    losses.sum() / trained as f64
}

/// Loss and gradients by parameter name.
pub(crate) fn loss_and_grads(
    decoder: &Decoder<Cpu>,
    adapter: &Adapter<Cpu>,
    rows: &Rows,
    options: ForwardOptions,
) -> (f64, BTreeMap<String, Vec<f32>>) {
    loss_and_grads_in(Precision::F32, decoder, adapter, rows, options)
}

/// As [`loss_and_grads`], in other element types.
pub(crate) fn loss_and_grads_in(
    precision: Precision,
    decoder: &Decoder<Cpu>,
    adapter: &Adapter<Cpu>,
    rows: &Rows,
    options: ForwardOptions,
) -> (f64, BTreeMap<String, Vec<f32>>) {
    let mut grads = ParamGrads::zeros(decoder.backend(), adapter.params()).unwrap();
    let trained = rows.trained();
    let loss = train_pass(decoder, adapter, rows, trained, options, precision, &mut grads);
    let named = adapter
        .params()
        .iter()
        .zip(grads.buffers())
        .map(|(p, g)| (p.name.clone(), decoder.backend().download(g).unwrap()))
        .collect();
    (loss, named)
}

/// Largest difference relative to the largest expected magnitude; NaN differs from everything.
pub(crate) fn max_error(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    actual.iter().zip(expected).fold(0.0, |worst, (a, e)| {
        let error = (f64::from(*a) - e).abs() / scale;
        if error.is_nan() { f64::INFINITY } else { worst.max(error) }
    })
}

/// Norm of the difference relative to the norm of what is expected; NaN is infinite.
pub(crate) fn norm_error(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let diff: f64 = actual.iter().zip(expected).map(|(a, e)| (f64::from(*a) - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    let error = (diff / norm).sqrt();
    if error.is_nan() { f64::INFINITY } else { error }
}
