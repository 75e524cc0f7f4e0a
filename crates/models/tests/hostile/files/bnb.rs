//! 4-bit weights whose quantization state is not theirs.

use serde_json::{Value, json};

use super::{Bytes, Case, Reader, data_of, header, plain, read, with_value};

const WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

/// Length of the state's JSON in the fixture.
const STATE_BYTES: usize = 166;

pub(super) fn cases() -> Vec<Case> {
    let whole = || read("models/llama-bnb4/model.safetensors");
    let files = |bytes| {
        vec![("config.json", read("models/llama-bnb4/config.json")), ("model.safetensors", bytes)]
    };
    let state_key = format!("{WEIGHT}.quant_state.bitsandbytes__nf4");
    // The state's JSON with one field changed, in as many bytes.
    let state = |from: &str, to: &str| {
        let mut bytes = whole();
        let start = data_of(&bytes, &state_key);
        let end = start + STATE_BYTES;
        let text = String::from_utf8(bytes[start..end].to_vec()).unwrap();
        assert!(text.contains(from) && from.len() == to.len(), "{text}");
        bytes.splice(start..end, text.replacen(from, to, 1).into_bytes());
        files(bytes)
    };
    let value =
        |part: &str, value: f32| files(with_value(whole(), &format!("{WEIGHT}.{part}"), value));
    let entry = |part: &str, field: &str, value: Value| {
        files(header(&whole(), |h| h[&format!("{WEIGHT}{part}")][field] = value))
    };
    let renamed = |from: &str, to: &str| {
        files(header(&whole(), |h| {
            let value = h.remove(&format!("{WEIGHT}.{from}")).unwrap();
            h.insert(format!("{WEIGHT}.{to}"), value);
        }))
    };
    plain(
        Reader::Model,
        vec![
            ("a state that is no JSON", state("{\"", "[\""), "quantization state"),
            ("a block of 0", state("\"blocksize\": 64", "\"blocksize\":  0"), "block"),
            ("a block of 63", state("\"blocksize\": 64", "\"blocksize\": 63"), "block"),
            ("a negative block", state("\"blocksize\": 64", "\"blocksize\": -4"), "quant state"),
            ("another shape", state("\"shape\": [64,", "\"shape\": [65,"), "shape"),
            ("a code book without a table", renamed("quant_map", "quant_mop"), "quant_mop"),
            ("no absmax", renamed("absmax", "absmix"), "absmix"),
            ("no nested absmax", renamed("nested_absmax", "nested_absmix"), "nested_absmix"),
            (
                "8 bits",
                renamed("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__int8"),
                "int8",
            ),
            (
                "no kind",
                renamed("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__"),
                "quantized as",
            ),
            ("another code book", state("nf4", "fp4"), "quant_type fp4"),
            ("an unknown code book", state("nf4", "nf5"), "quant state"),
            (
                "a block that is no power of two",
                state("\"blocksize\": 64", "\"blocksize\": 96"),
                "96",
            ),
            ("a block of bytes", state("\"blocksize\": 64", "\"blocksize\": \"\""), "quant"),
            (
                "no nested block",
                state("\"nested_blocksize\": 256", "\"nested_blocksize\":   0"),
                "nested",
            ),
            (
                "another nested block",
                state("\"nested_blocksize\": 256", "\"nested_blocksize\":  16"),
                "nested",
            ),
            (
                "nested scales in half",
                state("\"nested_dtype\": \"float32\"", "\"nested_dtype\": \"float16\""),
                "nested_dtype",
            ),
            (
                "an offset that is text",
                state("\"nested_offset\": 0.32", "\"nested_offset\": \"\"32"),
                "quantization state",
            ),
            (
                "a negative logical shape",
                state("\"shape\": [64,", "\"shape\": [-4,"),
                "quantization state",
            ),
            ("a shape of nothing", state("\"shape\": [64, 64]", "\"shape\": [64,  0]"), "shape"),
            (
                "an unknown type of weights",
                state("\"dtype\": \"float32\"", "\"dtype\": \"float99\""),
                "quant",
            ),
            ("scales that are not numbers", value("nested_absmax", f32::NAN), "nested_absmax"),
            ("infinite scales", value("nested_absmax", f32::INFINITY), "nested_absmax"),
            (
                "a table that is not numbers",
                value("nested_quant_map", f32::NAN),
                "nested_quant_map",
            ),
            ("a code book of another's values", value("quant_map", 0.5), "16 values"),
            ("a code book that is not numbers", value("quant_map", f32::NAN), "16 values"),
            ("codes of another type", entry("", "dtype", json!("I8")), "q_proj.weight"),
            (
                "scales of another type",
                entry(".nested_absmax", "dtype", json!("I32")),
                "nested_absmax",
            ),
            ("a weight without codes", renamed_whole(&whole(), WEIGHT, "x"), "no place"),
        ],
    )
}

fn renamed_whole(bytes: &[u8], from: &str, to: &str) -> Bytes {
    let bytes = header(bytes, |h| {
        let value = h.remove(from).unwrap();
        h.insert(to.to_owned(), value);
    });
    vec![("config.json", read("models/llama-bnb4/config.json")), ("model.safetensors", bytes)]
}
