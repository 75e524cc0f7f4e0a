//! Damaged and lying safetensors files.

use serde_json::{Value, json};

use super::{Bytes, Case, Reader, framed, header, plain, read, with_value};

const NORM: &str = "model.norm.weight";
const LINEAR: &str = "model.layers.0.mlp.up_proj.weight";

fn weights(bytes: Vec<u8>) -> Bytes {
    vec![("config.json", read("models/llama/config.json")), ("model.safetensors", bytes)]
}

/// The llama's weights with a field of one tensor replaced.
fn entry(field: &str, value: Value) -> Bytes {
    let bytes = read("models/llama/model.safetensors");
    weights(header(&bytes, |h| {
        h[NORM].as_object_mut().unwrap().insert(field.to_owned(), value);
    }))
}

pub(super) fn cases() -> Vec<Case> {
    let whole = || read("models/llama/model.safetensors");
    let raw = |length: u64, rest: &[u8]| weights([&length.to_le_bytes()[..], rest].concat());
    let deep = format!("{{\"a\":{}", "[".repeat(200_000));
    let offsets = |a: u64, b: u64| entry("data_offsets", json!([a, b]));
    let twice = {
        let text = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        framed(text.as_bytes(), &[0; 8])
    };
    plain(
        Reader::Model,
        vec![
            ("empty", weights(vec![]), "empty"),
            ("three bytes", weights(vec![1, 2, 3]), "not a complete"),
            ("length of 2^64 - 1", raw(u64::MAX, b"{}"), "safetensors"),
            ("length of 2^40", raw(1 << 40, b"{}"), "safetensors"),
            ("length beyond the end", raw(1000, b"{}"), "not a complete"),
            ("length of 0", raw(0, b"{}"), "safetensors"),
            ("no JSON", weights(framed(b"{]]]]]", &[])), "safetensors"),
            ("no UTF-8", weights(framed(&[0xff; 64], &[])), "safetensors"),
            ("a list", weights(framed(b"[1, 2]  ", &[])), "safetensors"),
            ("nested 200,000 deep", weights(framed(deep.as_bytes(), &[])), "safetensors"),
            ("offsets the wrong way round", offsets(256, 0), "safetensors"),
            ("offsets of another tensor", offsets(0, 256), "safetensors"),
            ("offsets beyond the end", offsets(1 << 40, (1 << 40) + 256), "safetensors"),
            ("negative offsets", entry("data_offsets", json!([-256, 0])), "safetensors"),
            ("offsets in words", entry("data_offsets", json!(["0", "256"])), "safetensors"),
            ("no offsets", entry("data_offsets", Value::Null), "safetensors"),
            ("a negative shape", entry("shape", json!([-64])), "safetensors"),
            ("a shape of fractions", entry("shape", json!([64.5])), "safetensors"),
            ("a shape that overflows", entry("shape", json!([u64::MAX, u64::MAX])), "safetensors"),
            ("a larger shape", entry("shape", json!([65])), "safetensors"),
            ("another shape of that size", entry("shape", json!([2, 32])), "shape"),
            ("an unknown type", entry("dtype", json!("F99")), "safetensors"),
            ("integers for weights", entry("dtype", json!("I32")), "type I32"),
            ("data cut off", weights(whole()[..whole().len() - 1].to_vec()), "cut off"),
            ("data too long", weights([whole(), vec![0]].concat()), "not a complete"),
            ("names twice", weights(twice), "safetensors"),
            (
                "a Git LFS pointer",
                weights(b"version https://git-lfs.github.com/spec/v1\noid".to_vec()),
                "git lfs pull",
            ),
            (
                "a page of HTML",
                weights(b"<!doctype html><html><body>Not found</body></html>".to_vec()),
                "safetensors",
            ),
            ("a zip file", weights([&b"PK\x03\x04"[..], &[0; 64]].concat()), "safetensors"),
            (
                "metadata that is no text",
                weights(header(&whole(), |h| {
                    h.insert("__metadata__".into(), json!({"format": {"a": [1]}}));
                })),
                "safetensors",
            ),
            (
                "names of the two kinds of one tensor",
                weights(header(&whole(), |h| {
                    h.insert(format!("{NORM}.quant_state.bitsandbytes__nf4"), h[NORM].clone());
                })),
                "safetensors",
            ),
            ("data that nobody names", weights(gap(&whole())), "safetensors"),
            ("a shape of 2^63 by 0", entry("shape", json!([1_u64 << 63, 0])), "safetensors"),
            ("an endless shape", entry("shape", json!(vec![1; 100_000])), "shape"),
            ("a type that is a number", entry("dtype", json!(3)), "safetensors"),
            ("three offsets", entry("data_offsets", json!([0, 1, 2])), "safetensors"),
            (
                "a tensor that is a list",
                weights(header(&whole(), |h| {
                    h.insert(NORM.into(), json!([]));
                })),
                "safetensors",
            ),
            (
                "a tensor too few",
                weights(header(&whole(), |h| {
                    h.remove(NORM);
                })),
                "safetensors",
            ),
            (
                "a tensor of a strange name",
                weights(header(&whole(), |h| {
                    let value = h.remove(NORM).unwrap();
                    h.insert("../../etc/passwd".into(), value);
                })),
                "`model.norm.weight`: is missing",
            ),
            (
                "a name of ten megabytes",
                weights(header(&whole(), |h| {
                    let value = h.remove(NORM).unwrap();
                    h.insert("n".repeat(10 << 20), value);
                })),
                "`model.norm.weight`: is missing",
            ),
            ("200,000 tensors", weights(framed(&many(200_000), &[])), "is missing"),
            ("a norm that is not a number", weights(with_value(whole(), NORM, f32::NAN)), "is NaN"),
            ("infinite norms", weights(with_value(whole(), NORM, f32::INFINITY)), "is inf"),
            ("weights that are not numbers", weights(with_value(whole(), LINEAR, f32::NAN)), "NaN"),
            ("infinite weights", weights(with_value(whole(), LINEAR, f32::NEG_INFINITY)), "inf"),
            ("a pickle", weights(b"\x80\x02}q\x00(X\x01\x00\x00\x00a".to_vec()), "safetensors"),
            ("a header of spaces", weights(framed(&[b' '; 4096], &[])), "safetensors"),
            ("a header that ends in zeros", weights(framed(b"{}\0\0\0\0\0\0", &[])), "safetensors"),
            ("a file of one object", weights(framed(b"{}", &[])), "is missing"),
        ],
    )
}

/// A header of so many tensors of nothing.
fn many(tensors: usize) -> Vec<u8> {
    let entry = |i| format!(r#""t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    format!("{{{}}}", (0..tensors).map(entry).collect::<Vec<_>>().join(",")).into_bytes()
}

/// The file with 256 bytes more at its end, and its last tensor moved there.
fn gap(bytes: &[u8]) -> Vec<u8> {
    let moved = header(bytes, |h| {
        let mut entries = h.values_mut().filter(|entry| entry.get("data_offsets").is_some());
        let end = |entry: &Value| entry["data_offsets"][1].as_u64().unwrap();
        let mut last = entries.next().unwrap();
        for entry in entries {
            if end(entry) > end(last) {
                last = entry;
            }
        }
        let (from, to) = (last["data_offsets"][0].as_u64().unwrap(), end(last));
        last["data_offsets"] = json!([from + 256, to + 256]);
    });
    [moved, vec![0; 256]].concat()
}
