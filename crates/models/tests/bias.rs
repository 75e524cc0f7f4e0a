//! Biases of the output and MLP projections, which only some Llama models have.

mod common;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use common::{Rows, fixture, logits, max_error};
use kernels::{Cpu, Philox};
use models::decoder::{BaseFormat, Decoder, LoadOptions};
use models::weights::Checkpoint;
use models::{HostData, HostTensor, Result, TensorInfo, TensorSource};

/// A checkpoint with tensors replaced or added.
struct Changed<'a> {
    base: &'a Checkpoint,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TensorSource for Changed<'_> {
    fn path(&self) -> &Path {
        self.base.path()
    }

    fn names(&self) -> Vec<&str> {
        self.base.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.base.info(name)
    }

    fn read(&self, name: &str) -> Result<HostTensor<'_>> {
        match self.tensors.get(name) {
            Some((shape, values)) => {
                Ok(HostTensor { shape: shape.clone(), data: HostData::F32(Cow::Borrowed(values)) })
            }
            None => self.base.read(name),
        }
    }
}

/// With `o_proj`, `gate_proj` and `up_proj` zero but for their biases, each layer adds the same vector to every token:
/// `o + W_down (silu(gate) * up) + down`. A model without biases has it in its embeddings.
#[test]
fn biases_shift_the_residual_stream() {
    let base = Checkpoint::open(&fixture("models/llama")).unwrap();
    let config = base.config();
    let (hidden, mlp, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let mut with = Changed { base: &base, tensors: BTreeMap::new() };
    let mut without = Changed { base: &base, tensors: BTreeMap::new() };
    let mut shift = vec![0.0; hidden];
    let shapes = config.linears().into_iter().enumerate();
    let mut biases = BTreeMap::new();
    for (i, linear) in shapes {
        let (module, out) = (linear.module, linear.out_features);
        let shape = vec![out, linear.in_features];
        let zeros = (shape, vec![0.0; out * linear.in_features]);
        let weight = format!("{module}.weight");
        if ["o_proj", "gate_proj", "up_proj"].iter().any(|name| module.ends_with(name)) {
            with.tensors.insert(weight.clone(), zeros.clone());
        }
        if ["o_proj", "down_proj"].iter().any(|name| module.ends_with(name)) {
            without.tensors.insert(weight, zeros);
        }
        let bias: Vec<f32> = (0..out as u64).map(|j| Philox::new(3, i as u64).normal(j)).collect();
        with.tensors.insert(format!("{module}.bias"), (vec![out], bias.clone()));
        biases.insert(module, bias);
    }
    for layer in 0..config.num_hidden_layers {
        let bias = |name: &str| &biases[&format!("model.layers.{layer}.{name}")];
        let (gate, up) = (bias("mlp.gate_proj"), bias("mlp.up_proj"));
        let act: Vec<f32> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        let down = base.read(&format!("model.layers.{layer}.mlp.down_proj.weight")).unwrap();
        for (i, row) in down.to_f32().chunks(mlp).enumerate() {
            let down: f32 = row.iter().zip(&act).map(|(w, x)| w * x).sum();
            shift[i] += bias("self_attn.o_proj")[i] + down + bias("mlp.down_proj")[i];
        }
    }
    let name = "model.embed_tokens.weight";
    let embedding = base.read(name).unwrap();
    let shifted = embedding.to_f32().iter().zip(shift.iter().cycle()).map(|(x, s)| x + s).collect();
    without.tensors.insert(name.to_owned(), (vec![vocab, hidden], shifted));

    let load = |source: &Changed<'_>, bias: bool| {
        let mut config = config.clone();
        (config.qkv_bias, config.o_bias, config.mlp_bias) = (bias, bias, bias);
        let options =
            LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
        Decoder::load(&Cpu::new(), source, &config, &options).unwrap()
    };
    let rows = Rows::all_trained(vec![(3..20).collect()]);
    let expected: Vec<f64> =
        logits(&load(&without, false), None, &rows).into_iter().map(f64::from).collect();
    let error = max_error(&logits(&load(&with, true), None, &rows), &expected);
    assert!(error <= 1e-5, "{error:e}");
}
