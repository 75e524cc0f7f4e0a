//! Logits, losses and every LoRA gradient of the tiny models against transformers, PEFT and
//! bitsandbytes in f32.

mod common;

use autograd::Precision;
use common::{
    Reference, Rows, adapter, adapter_with_dropout, eval_loss, load, load_with, logits,
    loss_and_grads, loss_and_grads_in, max_error, nf4_base, norm_error,
};
use kernels::Cpu;
use models::RopeScaling;
use models::decoder::{Adapter, BaseFormat, Decoder, ForwardOptions, Keep};

const LOGITS: f64 = 1e-4;
const LOSS: f64 = 1e-5;
const GRADS: f64 = 1e-3;

fn check_logits(decoder: &Decoder<Cpu>, lora: Option<&Adapter<Cpu>>, r: &Reference, name: &str) {
    let rows = Rows::all_trained(r.ids("input_ids"));
    let error = max_error(&logits(decoder, lora, &rows), r.values(name));
    assert!(error <= LOGITS, "{name}: {error:e}");
}

fn check_loss(actual: f64, r: &Reference, name: &str) {
    let expected = r.number(name);
    assert!((actual - expected).abs() <= LOSS, "{name}: {actual} against {expected}");
}

fn check_grads(
    decoder: &Decoder<Cpu>,
    lora: &Adapter<Cpu>,
    rows: &Rows,
    r: &Reference,
    prefix: &str,
    loss_name: &str,
) {
    let (loss, grads) = loss_and_grads(decoder, lora, rows, ForwardOptions::default());
    check_loss(loss, r, loss_name);
    let names = r.names(prefix);
    assert!(!names.is_empty());
    for name in names {
        let param = name[prefix.len()..].strip_prefix("base_model.model.").expect("PEFT's prefix");
        let error = norm_error(&grads[param], r.values(name));
        assert!(error <= GRADS, "{name}: {error:e}");
    }
}

fn check_model(name: &str) {
    let r = Reference::open(&format!("models/{name}"), "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    let peft = format!("{name}/adapter");

    let dense = load(name, BaseFormat::Dense);
    check_logits(&dense, None, &r, "logits_base");
    check_loss(eval_loss(&dense, None, &rows), &r, "loss_base");
    let lora = adapter(&dense, &peft);
    check_logits(&dense, Some(&lora), &r, "logits_lora");
    check_grads(&dense, &lora, &rows, &r, "grad.", "loss_lora");

    let quantized = load(name, nf4_base(false));
    check_logits(&quantized, None, &r, "logits_nf4");
    check_loss(eval_loss(&quantized, None, &rows), &r, "loss_nf4");
    let lora = adapter(&quantized, &peft);
    check_logits(&quantized, Some(&lora), &r, "logits_nf4_lora");
    check_grads(&quantized, &lora, &rows, &r, "grad_nf4.", "loss_nf4_lora");

    let double = load(name, nf4_base(true));
    let lora = adapter(&double, &peft);
    check_loss(eval_loss(&double, Some(&lora), &rows), &r, "loss_nf4_doublequant_lora");
}

#[test]
fn llama() {
    check_model("llama");
}

#[test]
fn mistral_with_a_sliding_window() {
    check_model("mistral");
}

#[test]
fn qwen2_with_bias_and_tied_head() {
    check_model("qwen2");
}

#[test]
fn qwen3_with_qk_norm() {
    check_model("qwen3");
}

/// bf16 rounds by at most 2^-9 of a value. A loss may be off by half of that, since errors average over its tokens; a
/// gradient by 24 times as much, since those of a dozen operations in each of two layers add up on its way.
const BF16: f64 = 1.0 / 512.0;

#[test]
fn bf16_activations() {
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let r = Reference::open(&format!("models/{name}"), "ref");
        let rows = Rows::all_trained(r.ids("input_ids"));
        let decoder = load(name, BaseFormat::Dense);
        let lora = adapter(&decoder, &format!("{name}/adapter"));
        let options = ForwardOptions::default();
        let (loss, grads) = loss_and_grads_in(Precision::BF16, &decoder, &lora, &rows, options);
        let expected = r.number("loss_lora");
        let error = (loss - expected).abs() / expected;
        assert!(error <= 0.5 * BF16, "{name}: {loss} against {expected}");
        assert!((loss - expected).abs() > LOSS, "{name}: not in bf16");
        for (param, grad) in &grads {
            let error = norm_error(grad, r.values(&format!("grad.base_model.model.{param}")));
            assert!(error <= 24.0 * BF16, "{name} {param}: {error:e}");
        }
    }
}

#[test]
fn masked_labels_and_rows_of_different_length() {
    let r = Reference::open("models/llama", "ref");
    let attended = r.values("masked.attention_mask");
    let labels = r.values("masked.labels");
    let ids = r.ids("masked.input_ids");
    let cols = ids[0].len();
    let mut rows = Rows { ids: Vec::new(), labels: Vec::new() };
    for (i, row) in ids.iter().enumerate() {
        let len = attended[i * cols..(i + 1) * cols].iter().filter(|&&x| x == 1.0).count();
        let label = |x: &f64| (*x >= 0.0).then_some(*x as u32);
        rows.ids.push(row[..len].to_vec());
        rows.labels.push(labels[i * cols..i * cols + len].iter().map(label).collect());
    }
    let dense = load("llama", BaseFormat::Dense);
    let lora = adapter(&dense, "llama/adapter");
    check_grads(&dense, &lora, &rows, &r, "grad_masked.", "loss_masked_lora");
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let r = Reference::open("models/llama", "ref");
    let mut row = r.ids("input_ids").swap_remove(0);
    let mut ids = Vec::new();
    for len in r.json["packed_lens"].as_array().unwrap() {
        let rest = row.split_off(len.as_u64().unwrap() as usize);
        ids.push(std::mem::replace(&mut row, rest));
    }
    assert!(row.is_empty());
    let dense = load("llama", BaseFormat::Dense);
    let lora = adapter(&dense, "llama/adapter");
    check_grads(&dense, &lora, &Rows::all_trained(ids), &r, "grad_packed.", "loss_packed_lora");
}

#[test]
fn rope_scaling() {
    let r = Reference::open("models/llama", "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    let variants = [
        (
            "llama3",
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 32,
            },
        ),
        ("linear", RopeScaling::Linear { factor: 2.0 }),
        (
            "yarn",
            RopeScaling::Yarn {
                factor: 4.0,
                original_max_position_embeddings: 32,
                attention_factor: None,
                beta_fast: 32.0,
                beta_slow: 1.0,
                mscale: None,
                mscale_all_dim: None,
                truncate: true,
            },
        ),
    ];
    for (name, scaling) in variants {
        let decoder = load_with("llama", BaseFormat::Dense, |mut config| {
            config.rope.scaling = scaling;
            config
        });
        let expected = r.values(&format!("logits_rope_{name}"));
        let all = logits(&decoder, None, &rows);
        let error = max_error(&all[all.len() - expected.len()..], expected);
        assert!(error <= LOGITS, "{name}: {error:e}");
        let loss = r.json["rope_variants"][name]["loss"].as_f64().unwrap();
        let actual = eval_loss(&decoder, None, &rows);
        assert!((actual - loss).abs() <= LOSS, "{name}: {actual} against {loss}");
    }
}

#[test]
fn dynamic_scaling_reaches_beyond_the_trained_length() {
    let r = Reference::open("models/llama", "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    let (len, max, factor) = (rows.ids[0].len(), 16, 2.0);
    let dynamic = load_with("llama", BaseFormat::Dense, |mut config| {
        config.max_position_embeddings = max;
        config.rope.scaling = RopeScaling::Dynamic { factor };
        config
    });
    let stretched = logits(&dynamic, None, &rows);
    // The rule of transformers' `_compute_dynamic_ntk_parameters`, by hand.
    let by_hand = load_with("llama", BaseFormat::Dense, |mut config| {
        let (stretch, dim) = (factor * len as f64 / max as f64 - (factor - 1.0), config.head_dim);
        config.rope.theta *= stretch.powf(dim as f64 / (dim as f64 - 2.0));
        config
    });
    assert_eq!(stretched, logits(&by_hand, None, &rows));
    let unscaled = logits(&load("llama", BaseFormat::Dense), None, &rows);
    assert_ne!(stretched, unscaled);
    let error = dynamic.inputs(&[3; 33], &[33]).unwrap_err().to_string();
    assert!(error.contains("33 tokens") && error.contains("context of 32"), "{error}");
}

#[test]
fn rslora_scaling() {
    let r = Reference::open("models/llama", "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    let dense = load("llama", BaseFormat::Dense);
    let lora = adapter(&dense, "llama/adapter_rslora");
    check_grads(&dense, &lora, &rows, &r, "grad_rslora.", "loss_rslora");
}

#[test]
fn bitsandbytes_checkpoint() {
    let r = Reference::open("models/llama", "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    // The dense format must not matter: what comes in 4 bit stays in 4 bit.
    let decoder = load("llama-bnb4", BaseFormat::Dense);
    check_loss(eval_loss(&decoder, None, &rows), &r, "loss_bnb4_model");
}

/// Every choice of what is kept of a layer.
fn keeps() -> impl Iterator<Item = Keep> {
    (0..64u32).map(|bits| {
        let [norms, qkv, attention, residual, gate_up, input] =
            std::array::from_fn(|i| bits >> i & 1 == 1);
        Keep { norms, qkv, attention, residual, gate_up, input }
    })
}

#[test]
fn what_is_kept_changes_no_bit() {
    let r = Reference::open("models/qwen3", "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    let decoder = load("qwen3", nf4_base(true));
    let lora = adapter_with_dropout(&decoder, "qwen3/adapter", 0.25);
    let [(without, _), (with, _)] = [None, Some(7)].map(|dropout_key| {
        let options = ForwardOptions { dropout_key, ..ForwardOptions::default() };
        let kept = loss_and_grads(&decoder, &lora, &rows, options.clone());
        for keep in keeps() {
            // Layers beyond are kept.
            for keep in [vec![keep; decoder.config().num_hidden_layers], vec![keep]] {
                let again = ForwardOptions { keep: keep.clone().into(), ..options.clone() };
                assert!(kept == loss_and_grads(&decoder, &lora, &rows, again), "{keep:?}");
            }
        }
        kept
    });
    assert!((with - without).abs() > 1e-3, "dropout is drawn: {with} against {without}");
}

#[test]
fn threads_do_not_change_a_bit() {
    let r = Reference::open("models/llama", "ref");
    let rows = Rows::all_trained(r.ids("input_ids"));
    let decoder = load("llama", nf4_base(true));
    let lora = adapter(&decoder, "llama/adapter");
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| loss_and_grads(&decoder, &lora, &rows, ForwardOptions::default()))
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}
