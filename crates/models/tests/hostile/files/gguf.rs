//! GGUF files whose counts, lengths and settings are not theirs.

use super::{Case, Reader, plain, read};

/// A GGUF header in the making.
fn gguf(tensors: u64, metadata: u64, rest: &[u8]) -> Vec<u8> {
    [&b"GGUF"[..], &3_u32.to_le_bytes(), &tensors.to_le_bytes(), &metadata.to_le_bytes(), rest]
        .concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor's description, with its dimensions in ggml's order.
fn tensor(name: &str, dimensions: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dimensions.len() as u32).to_le_bytes());
    out.extend(dimensions.iter().flat_map(|d| d.to_le_bytes()));
    out.extend(ty.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

pub(super) fn cases() -> Vec<Case> {
    let uint = |key: &str, value: u32| {
        [text(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    };
    let array = |element: u32, count: u64| {
        [
            text("a"),
            9_u32.to_le_bytes().to_vec(),
            element.to_le_bytes().to_vec(),
            count.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let one = |tensor: Vec<u8>| gguf(1, 0, &[tensor, vec![0; 512]].concat());
    let two = |a: Vec<u8>, b: Vec<u8>| gguf(2, 0, &[a, b, vec![0; 512]].concat());
    let norm = "output_norm.weight";
    let whole = || read("gguf/qwen2.gguf");
    // Four bytes behind the last place of a key and its type.
    let patch = |key: &str, behind: usize, value: u32| {
        let (mut bytes, key) = (whole(), text(key));
        let at = bytes.windows(key.len()).rposition(|window| window == key).unwrap();
        let at = at + key.len() + behind;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let set = |key: &str, value: u32| patch(key, 4, value);
    let retype = |key: &str, ty: u32| patch(key, 0, ty);
    let renamed = |from: &str, to: &str| {
        let (mut bytes, from) = (whole(), text(from));
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes.splice(at..at + from.len(), text(to));
        bytes
    };
    let list: Vec<(&'static str, Vec<u8>, &'static str)> = vec![
        ("nothing", vec![], "m.gguf"),
        ("another magic", b"GGML\x03\0\0\0".to_vec(), "not a GGUF file"),
        ("version 99", [&b"GGUF"[..], &99_u32.to_le_bytes()].concat(), "version"),
        ("a big-endian file", [&b"GGUF"[..], &3_u32.to_be_bytes()].concat(), "big-endian"),
        ("2^64 - 1 tensors", gguf(u64::MAX, 0, &[]), "tensor 0"),
        ("2^64 - 1 entries", gguf(0, u64::MAX, &[]), "metadata entry 0"),
        ("a key of 2^64 - 1 bytes", gguf(0, 1, &u64::MAX.to_le_bytes()), "metadata"),
        (
            "a key that is no UTF-8",
            gguf(0, 1, &[&3_u64.to_le_bytes()[..], &[0xff; 64]].concat()),
            "UTF-8",
        ),
        (
            "a value type of 99",
            gguf(0, 1, &[text("a"), 99_u32.to_le_bytes().to_vec()].concat()),
            "value type 99",
        ),
        ("2^60 bytes in an array", gguf(0, 1, &array(0, 1 << 60)), "an array of"),
        ("2^60 strings in an array", gguf(0, 1, &array(8, 1 << 60)), "an array of"),
        ("arrays in an array", gguf(0, 1, &array(9, 1)), "array"),
        ("keys twice", gguf(0, 2, &[uint("a", 1), uint("a", 2)].concat()), "twice"),
        ("an alignment of 3", gguf(0, 1, &uint("general.alignment", 3)), "alignment"),
        ("an alignment of 0", gguf(0, 1, &uint("general.alignment", 0)), "alignment"),
        ("five dimensions", one(tensor(norm, &[1; 5], 0, 0)), "5 dimensions"),
        ("no dimensions", one(tensor(norm, &[], 0, 0)), "0 dimensions"),
        ("a dimension of 0", one(tensor(norm, &[0], 0, 0)), "whole blocks"),
        ("2^126 elements", one(tensor(norm, &[1 << 63, 1 << 63], 0, 0)), "too large"),
        ("half a block", one(tensor(norm, &[33], 8, 0)), "whole blocks"),
        ("an unknown type", one(tensor(norm, &[4], 77, 0)), "unknown ggml type"),
        ("an offset beyond the end", one(tensor(norm, &[4], 0, 1 << 40)), "file ends"),
        ("an offset of 2^64 - 1", one(tensor(norm, &[4], 0, u64::MAX)), "too large"),
        ("an offset in between", one(tensor(norm, &[4], 0, 4)), "alignment"),
        (
            "tensors over one another",
            two(tensor(norm, &[64], 0, 0), tensor("token_embd.weight", &[4], 0, 32)),
            "overlap",
        ),
        ("tensors twice", two(tensor(norm, &[4], 0, 0), tensor(norm, &[4], 0, 32)), "twice"),
        ("one part of three", gguf(0, 1, &uint("split.count", 3)), "parts"),
        ("no architecture", gguf(0, 0, &[]), "general.architecture"),
        ("version 1", [&b"GGUF"[..], &1_u32.to_le_bytes()].concat(), "version"),
        ("half a header", whole()[..20].to_vec(), "ends inside"),
        ("a header cut off", whole()[..1500].to_vec(), "ends inside"),
        ("data cut off", whole()[..4000].to_vec(), "download complete"),
        ("2^40 entries", gguf(0, 1 << 40, &uint("a", 1)), "metadata entry 1 of"),
        ("2^40 tensors", gguf(1 << 40, 0, &tensor(norm, &[4], 0, 0)), "tensor 1 of"),
        (
            "a text of 2^63 bytes",
            gguf(
                0,
                1,
                &[text("a"), 8_u32.to_le_bytes().to_vec(), (1_u64 << 63).to_le_bytes().to_vec()]
                    .concat(),
            ),
            "ends inside",
        ),
        ("an array of an unknown type", gguf(0, 1, &array(99, 1)), "value type 99"),
        ("2^60 numbers in an array", gguf(0, 1, &array(12, 1 << 60)), "an array of"),
        (
            "a key of a megabyte",
            gguf(0, 1, &[text(&"k".repeat(1 << 20)), vec![0; 8]].concat()),
            "a key of",
        ),
        ("an alignment of 2^31", gguf(0, 1, &uint("general.alignment", 1 << 31)), "alignment"),
        ("four dimensions that overflow", one(tensor(norm, &[1 << 20; 4], 0, 0)), "too large"),
        ("an offset that wraps around", one(tensor(norm, &[4], 0, u64::MAX - 15)), "too large"),
        ("a tensor of nobody", one(tensor("blk.0.ssm_a", &[4], 0, 0)), "not a tensor of"),
        (
            "a layer of 2^64",
            one(tensor("blk.18446744073709551616.attn_q.weight", &[4], 0, 0)),
            "not a tensor of",
        ),
        ("no layers", set("qwen2.block_count", 0), "block_count"),
        ("2^31 layers", set("qwen2.block_count", 1 << 31), "block_count"),
        ("more layers than tensors", set("qwen2.block_count", 100), "is missing"),
        ("no width", set("qwen2.embedding_length", 0), "head_dim"),
        ("another width", set("qwen2.embedding_length", 128), "shape"),
        ("no heads", set("qwen2.attention.head_count", 0), "head"),
        ("heads that do not divide", set("qwen2.attention.head_count", 7), "head"),
        ("3 heads of keys", set("qwen2.attention.head_count_kv", 3), "key_value"),
        ("no context", set("qwen2.context_length", 0), "max_position_embeddings"),
        ("another MLP", set("qwen2.feed_forward_length", 1), "shape"),
        (
            "an epsilon that is no number",
            set("qwen2.attention.layer_norm_rms_epsilon", f32::NAN.to_bits()),
            "epsilon",
        ),
        (
            "an infinite frequency",
            set("qwen2.rope.freq_base", f32::INFINITY.to_bits()),
            "freq_base",
        ),
        ("a negative frequency", set("qwen2.rope.freq_base", (-1.0_f32).to_bits()), "rope"),
        ("layers by halves", retype("qwen2.block_count", 6), "expected a non-negative integer"),
        ("an architecture from elsewhere", renamed("qwen2", "mamba"), "general.architecture"),
    ];
    plain(
        Reader::Gguf,
        list.into_iter().map(|(name, bytes, says)| (name, vec![("m.gguf", bytes)], says)).collect(),
    )
}
