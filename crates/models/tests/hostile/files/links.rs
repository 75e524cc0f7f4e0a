//! What is no file, or has no end.

use models::adapter::{CONFIG_FILE, WEIGHTS_FILE};

use super::File::{Bytes, Directory, Link, Sparse};
use super::{Case, File, Reader, read};

/// A file of a terabyte that takes no room.
const TERABYTE: u64 = 1 << 40;

/// What it is, who reads it, the files, and what the message says.
type Line = (&'static str, Reader, Vec<(&'static str, File)>, &'static str);

pub(super) fn cases() -> Vec<Case> {
    let config = || Bytes(read("models/llama/config.json"));
    let weights = || Bytes(read("models/llama/model.safetensors"));
    let adapter = || Bytes(read("models/llama/adapter/adapter_config.json"));
    let model =
        |config: File, weights: File| vec![("config.json", config), ("model.safetensors", weights)];
    let with_index =
        |index: File| vec![("config.json", config()), ("model.safetensors.index.json", index)];
    let sparse = |start: &[u8]| Sparse(start.to_vec(), TERABYTE);
    let cases: Vec<Line> = vec![
        ("settings without end", Reader::Model, model(Link("/dev/zero"), weights()), "not a file"),
        (
            "settings in a circle",
            Reader::Model,
            model(Link("config.json"), weights()),
            "config.json",
        ),
        ("settings that are a directory", Reader::Model, model(Directory, weights()), "not a file"),
        ("settings of a terabyte", Reader::Model, model(sparse(b"{"), weights()), "too many"),
        ("weights without end", Reader::Model, model(config(), Link("/dev/zero")), "neither"),
        (
            "weights in a circle",
            Reader::Model,
            model(config(), Link("model.safetensors")),
            "neither",
        ),
        ("weights that are a directory", Reader::Model, model(config(), Directory), "neither"),
        (
            "weights from elsewhere",
            Reader::Model,
            model(config(), Link("/etc/passwd")),
            "safetensors",
        ),
        ("weights of a terabyte", Reader::Model, model(config(), sparse(b"")), "safetensors"),
        (
            "weights of a terabyte with a header",
            Reader::Model,
            model(config(), sparse(b"\x02\0\0\0\0\0\0\0{}")),
            "not a complete",
        ),
        ("an index without end", Reader::Model, with_index(Link("/dev/zero")), "neither"),
        ("an index of a terabyte", Reader::Model, with_index(sparse(b"{")), "too many"),
        (
            "a generation without end",
            Reader::Model,
            vec![
                ("config.json", config()),
                ("model.safetensors", weights()),
                ("generation_config.json", Link("/dev/zero")),
            ],
            "not a file",
        ),
        ("a GGUF file without end", Reader::Gguf, vec![("m.gguf", Link("/dev/zero"))], "m.gguf"),
        ("a GGUF file in a circle", Reader::Gguf, vec![("m.gguf", Link("m.gguf"))], "m.gguf"),
        ("a GGUF file of a terabyte", Reader::Gguf, vec![("m.gguf", sparse(b""))], "not a GGUF"),
        (
            "a terabyte of GGUF metadata",
            Reader::Gguf,
            vec![("m.gguf", sparse(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\0\0\0"))],
            "twice",
        ),
        (
            "adapter settings without end",
            Reader::Adapter,
            vec![(CONFIG_FILE, Link("/dev/zero"))],
            "not a file",
        ),
        (
            "adapter settings of a terabyte",
            Reader::Adapter,
            vec![(CONFIG_FILE, sparse(b"{"))],
            "too many",
        ),
        (
            "adapter weights without end",
            Reader::Adapter,
            vec![(CONFIG_FILE, adapter()), (WEIGHTS_FILE, Link("/dev/zero"))],
            "adapter_model.safetensors",
        ),
        (
            "adapter weights that are a directory",
            Reader::Adapter,
            vec![(CONFIG_FILE, adapter()), (WEIGHTS_FILE, Directory)],
            "adapter_model.safetensors",
        ),
        (
            "adapter weights of a terabyte",
            Reader::Adapter,
            vec![(CONFIG_FILE, adapter()), (WEIGHTS_FILE, sparse(b""))],
            "safetensors",
        ),
    ];
    cases
        .into_iter()
        .map(|(name, reader, files, says)| Case { name, reader, files, says })
        .collect()
}
