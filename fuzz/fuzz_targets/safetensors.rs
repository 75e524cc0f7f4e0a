//! A directory of safetensors files: `r` and a file as it is; `i` with an index, a header and data; else a header and
//! data.
#![no_main]

use fuzz::{Scratch, parts, read_all, safetensors};
use libfuzzer_sys::fuzz_target;
use models::weights::SafetensorsCheckpoint;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let dir = Scratch::new();
    match kind {
        b'r' => {
            dir.write("model.safetensors", rest);
        }
        b'i' => {
            let [index, header, data] = parts(rest);
            dir.write("model.safetensors.index.json", index);
            dir.write("a.safetensors", &safetensors(header, data));
        }
        _ => {
            let [header, data] = parts(rest);
            dir.write("model.safetensors", &safetensors(header, data));
        }
    }
    if let Ok(checkpoint) = SafetensorsCheckpoint::open(dir.path()) {
        read_all(&checkpoint);
    }
});
