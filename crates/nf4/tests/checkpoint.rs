//! Quant states in bitsandbytes' key format, against a checkpoint that it wrote.

mod common;

use std::borrow::Cow;
use std::collections::HashMap;

use common::{elements, fixture, parse};
use nf4::state::{self, StateDtype, StateTensor};
use nf4::{Absmax, Error, QuantConfig, QuantType, QuantizedTensor, SourceDtype};
use safetensors::{Dtype, SafeTensors};

const MODULE: &str = "model.layers.0.mlp.down_proj";

type Tensors<'a> = HashMap<String, StateTensor<'a>>;

fn stored<'a>(file: &SafeTensors<'a>) -> Tensors<'a> {
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(key, view)| {
            let dtype = match view.dtype() {
                Dtype::U8 => StateDtype::U8,
                Dtype::F32 => StateDtype::F32,
                other => panic!("{key}: dtype {other:?}"),
            };
            let shape = view.shape().to_vec();
            let bytes = Cow::Borrowed(view.data());
            (key, StateTensor { dtype, shape, bytes })
        })
        .collect()
}

fn read(module: &str, tensors: &Tensors<'_>) -> Result<QuantizedTensor, Error> {
    state::from_tensors(module, |key| tensors.get(key).cloned())
}

fn quantized(double_quant: bool, quant_type: QuantType) -> QuantizedTensor {
    let data: Vec<f32> = (0..33 * 65).map(|i| (i as f32 * 0.37).sin()).collect();
    let config = QuantConfig::new(quant_type, 64, double_quant).expect("valid");
    nf4::quantize("w", &data, &[33, 65], &config).expect("finite")
}

fn owned(tensor: &QuantizedTensor, module: &str) -> Tensors<'static> {
    let tensors = state::to_tensors(tensor, module).into_iter();
    tensors
        .map(|(key, tensor)| {
            let bytes = Cow::Owned(tensor.bytes.into_owned());
            (key, StateTensor { dtype: tensor.dtype, shape: tensor.shape, bytes })
        })
        .collect()
}

#[test]
fn a_bitsandbytes_checkpoint_is_written_back_byte_for_byte() {
    let bytes = fixture("models/llama-bnb4/model.safetensors");
    let stored = stored(&parse(&bytes));
    let modules: Vec<&str> =
        stored.keys().filter_map(|key| key.strip_suffix(".weight.absmax")).collect();
    assert_eq!(modules.len(), 14);
    let mut written = 0;
    for module in modules {
        let tensor = read(module, &stored).expect(module);
        for (key, ours) in state::to_tensors(&tensor, module) {
            assert_eq!(stored.get(&key), Some(&ours), "{key}");
            written += 1;
        }
    }
    assert_eq!(written, 14 * 6);
}

#[test]
fn quantising_the_original_gives_the_checkpoint() {
    let bytes = fixture("models/llama-bnb4/model.safetensors");
    let stored = stored(&parse(&bytes));
    let original_bytes = fixture("models/llama/model.safetensors");
    let original = parse(&original_bytes);
    let weight = original.tensor(&format!("{MODULE}.weight")).expect("weight");
    let data: Vec<f32> = elements(&weight);
    let ours = nf4::quantize(MODULE, &data, weight.shape(), &QuantConfig::default());
    assert_eq!(ours.expect("finite"), read(MODULE, &stored).expect("readable"));
}

#[test]
fn every_kind_of_state_round_trips() {
    for quant_type in [QuantType::Nf4, QuantType::Fp4] {
        for double_quant in [false, true] {
            let tensor = quantized(double_quant, quant_type);
            let back = read("m", &owned(&tensor, "m")).expect("readable");
            assert_eq!(back, tensor);
            assert_eq!(back.source_dtype(), SourceDtype::F32);
        }
    }
}

#[test]
fn packed_codes_may_be_stored_as_another_dtype() {
    let tensor = quantized(false, QuantType::Nf4);
    let mut tensors = owned(&tensor, "m");
    let packed = tensors.get_mut("m.weight").expect("packed");
    (packed.dtype, packed.shape) = (StateDtype::Bf16, vec![packed.bytes.len() / 2, 1]);
    assert_eq!(read("m", &tensors).expect("readable"), tensor);
}

#[test]
fn each_missing_key_is_named() {
    let complete = owned(&quantized(true, QuantType::Nf4), "m");
    for key in complete.keys() {
        let mut tensors = complete.clone();
        tensors.remove(key);
        let message = read("m", &tensors).expect_err(key).to_string();
        assert!(message.contains(&format!("`{key}` is missing")), "{message}");
    }
}

/// What reading says after `change` was made to the tensor under `key`.
fn message_after(key: &str, change: impl Fn(&mut StateTensor<'static>)) -> String {
    let mut tensors = owned(&quantized(true, QuantType::Nf4), "m");
    change(tensors.get_mut(key).expect(key));
    read("m", &tensors).expect_err(key).to_string()
}

#[test]
fn damaged_tensors_are_errors() {
    let truncate = |t: &mut StateTensor<'static>| {
        t.bytes.to_mut().pop();
    };
    let as_f32 = |t: &mut StateTensor<'static>| t.dtype = StateDtype::F32;
    let nan = |t: &mut StateTensor<'static>| t.bytes.to_mut()[..4].fill(0xff);
    let cases = [
        (message_after("m.weight", truncate), "packed has length 1072, expected 1073"),
        (message_after("m.weight.absmax", truncate), "absmax has length 33, expected 34"),
        (message_after("m.weight.absmax", as_f32), "has dtype F32, expected U8"),
        (message_after("m.weight.nested_absmax", truncate), "not a whole number of f32"),
        (message_after("m.weight.nested_absmax", nan), "nested_absmax holds a value"),
        (message_after("m.weight.quant_map", nan), "not the 16 values of nf4"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_damaged_json_is_an_error() {
    let key = "m.weight.quant_state.bitsandbytes__nf4";
    let replace = |from: &'static str, to: &'static str| {
        message_after(key, move |t| {
            let json = String::from_utf8(t.bytes.to_vec()).expect("UTF-8");
            assert!(json.contains(from));
            t.bytes = json.replace(from, to).into_bytes().into();
        })
    };
    let cases = [
        (replace("}", ""), "not the JSON"),
        (
            replace("\"blocksize\": 64", "\"blocksize\": 65"),
            "tensor `m.weight`: blocksize 65 is not one",
        ),
        (replace("\"quant_type\": \"nf4\"", "\"quant_type\": \"fp4\""), "says quant_type fp4"),
        (replace("\"nested_dtype\": \"float32\"", "\"nested_dtype\": \"float16\""), "nested_dtype"),
        (
            replace("\"nested_blocksize\": 256", "\"nested_blocksize\": 0"),
            "tensor `m.weight`: nested_blocksize 0 is not one",
        ),
        (replace("\"nested_offset\"", "\"nested_other\""), "not the JSON"),
        (replace("[33, 65]", "[33, 66]"), "packed has length 1073, expected 1089"),
        (replace("[33, 65]", "[4294967296, 4294967296]"), "does not hold"),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_state_without_double_quantisation_has_four_tensors() {
    let tensor = quantized(false, QuantType::Fp4);
    assert!(matches!(tensor.absmax(), Absmax::Plain(_)));
    let mut keys: Vec<String> = owned(&tensor, "m").into_keys().collect();
    keys.sort();
    let expected = ["m.weight", "m.weight.absmax", "m.weight.quant_map"];
    assert_eq!(keys[..3], expected);
    assert_eq!(keys[3], "m.weight.quant_state.bitsandbytes__fp4");
}
