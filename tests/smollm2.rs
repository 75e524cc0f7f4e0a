//! SmolLM2-135M-Instruct, read from its GGUF, against what the Python stack gives for it
//! (`tests/fixtures/smollm2/ref.json`, see `tests/fixtures/README.md`). `scripts/test.sh` fetches the
//! model and says where it is in `QLORA_SMOLLM2`.
#![cfg(feature = "real-model-tests")]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::OnceLock;

use autograd::{ParamGrads, Precision, Tape};
use data::EncodeOptions;
use data::rows::{Chat, Rows};
use kernels::ops::IGNORE;
use kernels::{Backend, Cpu};
use models::decoder::{Adapter, BaseFormat, Decoder, ForwardOptions, LoadOptions};
use models::generate::{GenerateOptions, Sampling, generate};
use models::tokenizer::Tokenizer;
use models::weights::Checkpoint;
use models::{HostData, LoraConfig};
use nf4::{Absmax, QuantConfig, QuantType};
use serde_json::Value;
use sha2::{Digest, Sha256};
use trainer::base::Base;

fn gguf() -> PathBuf {
    std::env::var_os("QLORA_SMOLLM2")
        .map(PathBuf::from)
        .expect("QLORA_SMOLLM2 names the GGUF: export QLORA_SMOLLM2=$(scripts/fetch-model.sh)")
}

fn reference() -> &'static Value {
    static REFERENCE: OnceLock<Value> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/smollm2/ref.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    })
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

#[test]
fn tokenizer_vectors() {
    let tokenizer = Tokenizer::open(&gguf()).unwrap();
    for case in reference()["tokenizer"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn chat_template_vectors() {
    let base = Base::open(&gguf()).unwrap();
    let options = EncodeOptions::whole(base.config().max_position_embeddings);
    let cases = reference()["chat"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("row.jsonl");
        let row = serde_json::json!({ "messages": case["messages"] });
        std::fs::write(&path, row.to_string()).unwrap();
        let found = if case["add_generation_prompt"] == true {
            base.encoder().prompt_ids(&Chat::read(&path).unwrap()).unwrap()
        } else {
            let rows = Rows::read(&path, None).unwrap();
            base.encoder().encode(&rows, &options).unwrap().example(0).unwrap().input_ids
        };
        assert_eq!(found, ids(&case["ids"]), "{}", case["text"]);
        assert_eq!(base.tokenizer().decode(&found, false).unwrap(), case["text"]);
    }
}

fn sha16(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let head = u64::from_be_bytes(digest[..8].try_into().expect("8 bytes"));
    format!("{head:016x}")
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn nf4_bytes_of_all_linears() {
    let checkpoint = Checkpoint::open(&gguf()).unwrap();
    let linears = reference()["nf4_sha256"].as_object().unwrap();
    assert_eq!(linears.len(), 210);
    for (module, expected) in linears {
        let name = format!("{module}.weight");
        let tensor = checkpoint.source().read(&name).unwrap();
        let HostData::Bf16(data) = &tensor.data else { panic!("{name} is not bf16") };
        let quantize = |double_quant| {
            let config = QuantConfig::new(QuantType::Nf4, 64, double_quant).unwrap();
            nf4::quantize(&name, data, &tensor.shape, &config).unwrap()
        };
        let plain = quantize(false);
        let Absmax::Plain(absmax) = plain.absmax() else { panic!("{name} is nested") };
        assert_eq!(sha16(plain.packed()), expected[0].as_str().unwrap(), "{name}: packed");
        assert_eq!(sha16(&f32_bytes(absmax)), expected[1].as_str().unwrap(), "{name}: absmax");
        let double = quantize(true);
        let Absmax::Nested(nested) = double.absmax() else { panic!("{name} is not nested") };
        assert_eq!(sha16(&nested.codes), expected[2].as_str().unwrap(), "{name}: nested absmax");
        let offset = expected[3].as_f64().unwrap();
        assert_eq!(f64::from(nested.offset), offset, "{name}: offset");
    }
}

fn dense() -> Decoder<Cpu> {
    load(BaseFormat::Dense)
}

fn load(format: BaseFormat) -> Decoder<Cpu> {
    let checkpoint = Checkpoint::open(&gguf()).unwrap();
    let options = LoadOptions { format, narrow: false, progress: &|_, _| () };
    Decoder::load(&Cpu::new(), checkpoint.source(), checkpoint.config(), &options).unwrap()
}

#[test]
fn most_likely_tokens_and_their_logits() {
    let (decoder, r) = (dense(), reference());
    let prompt = ids(&r["chat"][0]["ids"]);
    let inputs = decoder.inputs(&prompt, &[prompt.len()]).unwrap();
    let mut tape = Tape::inference(decoder.backend(), Precision::F32);
    let hidden = decoder.hidden(&mut tape, &inputs, None, ForwardOptions::default()).unwrap();
    let logits = decoder.logits(&mut tape, &hidden, &[prompt.len() as u32 - 1]).unwrap();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    let top = &r["top20_last_logits"];
    assert_eq!(order[..20], ids(&top["ids"]));
    let expected = top["logits"].as_array().unwrap();
    let largest = expected[0].as_f64().unwrap();
    for (&token, expected) in order.iter().zip(expected) {
        let (found, expected) = (f64::from(logits[token as usize]), expected.as_f64().unwrap());
        assert!((found - expected).abs() <= 1e-4 * largest, "{token}: {found} against {expected}");
    }
}

#[test]
fn greedy_tokens() {
    let decoder = dense();
    let config = decoder.config();
    let r = reference();
    let prompts = [ids(&r["chat"][0]["ids"]), ids(&r["greedy2_prompt"])];
    let expected = [ids(&r["greedy_f32"]), ids(&r["greedy2_f32"])];
    let options = |max_new_tokens| GenerateOptions {
        max_new_tokens,
        sampling: Sampling::GREEDY,
        stop_tokens: config.eos_token_ids.clone(),
        precision: Precision::F32,
    };
    // The reference keeps the end-of-turn token that ended the first answer.
    let (answer, end) = expected[0].split_at(expected[0].len() - 1);
    assert!(config.eos_token_ids.contains(&end[0]));
    let texts =
        generate(&decoder, None, &prompts[..1], &options(40), |_, _| ControlFlow::Continue(()))
            .unwrap();
    assert_eq!(texts[0], answer);
    // Together with a shorter one, and each on its own: the same tokens.
    let texts =
        generate(&decoder, None, &prompts, &options(64), |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(texts, [answer.to_vec(), expected[1].clone()]);
}

/// Mean loss of all tokens after the first of each row, and the gradients of the adapter, in passes over
/// these sequences of tokens, packed together where a pass has several.
fn loss_and_grads(
    decoder: &Decoder<Cpu>,
    adapter: &Adapter<Cpu>,
    precision: Precision,
    passes: &[&[Vec<u32>]],
) -> (f64, Vec<f64>) {
    let trained: usize = passes.iter().copied().flatten().map(|row| row.len() - 1).sum();
    let mut grads = ParamGrads::zeros(decoder.backend(), adapter.params()).unwrap();
    let mut loss = 0.0;
    for rows in passes {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let labels = |row: &Vec<u32>| [&row[1..], &[IGNORE]].concat();
        let labels: Vec<u32> = rows.iter().flat_map(labels).collect();
        let inputs = decoder.inputs(&rows.concat(), &lengths).unwrap();
        let mut tape = Tape::training(decoder.backend(), precision);
        let options = ForwardOptions::default();
        let hidden = decoder.hidden(&mut tape, &inputs, Some(adapter), options).unwrap();
        let scale = 1.0 / trained as f32;
        loss += decoder.losses(&mut tape, &hidden, &labels, scale).unwrap().sum();
        drop(hidden);
        tape.backward(&mut grads).unwrap();
    }
    let grads = grads.buffers().iter().flat_map(|grad| decoder.backend().download(grad).unwrap());
    (loss / trained as f64, grads.map(f64::from).collect())
}

/// Packing may round otherwise, by no more than bf16 itself does; sequences that see each other differ by far more.
#[test]
fn packed_rows_are_learned_as_rows_of_their_own_in_bf16() {
    let config = QuantConfig::new(QuantType::Nf4, 64, true).unwrap();
    let decoder = load(BaseFormat::Quantized(config));
    let lora = LoraConfig { r: 16, lora_alpha: 32.0, ..LoraConfig::default() };
    let adapter = Adapter::init(&decoder, &lora, 1).unwrap();
    let rows: Vec<Vec<u32>> =
        reference()["chat"].as_array().unwrap().iter().map(|case| ids(&case["ids"])).collect();
    let apart: Vec<&[Vec<u32>]> = rows.chunks(1).collect();
    let of =
        |precision, passes: &[&[Vec<u32>]]| loss_and_grads(&decoder, &adapter, precision, passes);
    let (_, exact) = of(Precision::F32, &apart);
    let (loss_apart, grads_apart) = of(Precision::BF16, &apart);
    let (loss_packed, grads_packed) = of(Precision::BF16, &[&rows]);
    let (loss_glued, grads_glued) = of(Precision::BF16, &[&[rows.concat()]]);
    let distance = |a: &[f64], b: &[f64]| {
        let square: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        square.sqrt()
    };
    let rounding = distance(&grads_apart, &exact);
    let found = distance(&grads_packed, &grads_apart);
    assert!(found <= 2.0 * rounding, "gradients: {found:e}, bf16 rounds by {rounding:e}");
    assert!(distance(&grads_glued, &grads_apart) > 10.0 * rounding);
    let rounding = loss_apart / 256.0;
    assert!((loss_packed - loss_apart).abs() <= rounding, "{loss_packed} {loss_apart}");
    assert!((loss_glued - loss_apart).abs() > 10.0 * rounding, "{loss_glued} {loss_apart}");
}
