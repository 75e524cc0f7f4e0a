//! A weight in 4 bit: lengths and types of its tensors, the JSON of its quantization state, then their bytes.
#![no_main]

use fuzz::{Scratch, parts, read_all, safetensors};
use libfuzzer_sys::fuzz_target;
use models::weights::SafetensorsCheckpoint;
use nf4::QuantType;
use serde_json::{Map, Value, json};

/// What a tensor of the state is called, with the size of an element and a type that fits.
const PARTS: [(&str, &str, u64); 5] = [
    ("", "U8", 1),
    (".quant_map", "F32", 4),
    (".absmax", "F32", 4),
    (".nested_absmax", "F32", 4),
    (".nested_quant_map", "F32", 4),
];

const TYPES: [(&str, u64); 6] =
    [("U8", 1), ("F32", 4), ("BF16", 2), ("F16", 2), ("I8", 1), ("F64", 8)];

fuzz_target!(|input: &[u8]| {
    // One byte for the kind, whose code book is right below 128; for each tensor its type and its length.
    let Some((settings, rest)) = input.split_first_chunk::<16>() else { return };
    let [state, bytes] = parts(rest);
    let mut header = Map::new();
    let mut data = Vec::new();
    let mut add = |name: &str, dtype: &str, elements: u64, bytes: &[u8]| {
        let start = data.len();
        data.extend(bytes);
        let entry =
            json!({"dtype": dtype, "shape": [elements], "data_offsets": [start, data.len()]});
        header.insert(format!("a.weight{name}"), entry);
    };
    let kind = ["nf4", "fp4", "int8", ""][usize::from(settings[0] % 4)];
    add(&format!(".quant_state.bitsandbytes__{kind}"), "U8", state.len() as u64, state);
    let mut bytes = bytes.iter().copied().chain(std::iter::repeat(1));
    for ((name, dtype, size), setting) in PARTS.into_iter().zip(settings[1..].as_chunks::<3>().0) {
        let (dtype, size) = match setting[0] {
            0 => (dtype, size),
            255 => continue,
            other => TYPES[usize::from(other) % TYPES.len()],
        };
        let elements = u64::from(u16::from_le_bytes([setting[1], setting[2]]) % 4096);
        let mut values: Vec<u8> = bytes.by_ref().take((elements * size) as usize).collect();
        if name == ".quant_map" && settings[0] < 128 {
            let book = if kind == "fp4" { QuantType::Fp4 } else { QuantType::Nf4 };
            values = book.values().iter().flat_map(|value| value.to_le_bytes()).collect();
            add(name, "F32", 16, &values);
        } else {
            add(name, dtype, elements, &values);
        }
    }
    let dir = Scratch::new();
    let header = Value::Object(header).to_string();
    dir.write("model.safetensors", &safetensors(header.as_bytes(), &data));
    if let Ok(checkpoint) = SafetensorsCheckpoint::open(dir.path()) {
        read_all(&checkpoint);
    }
});
