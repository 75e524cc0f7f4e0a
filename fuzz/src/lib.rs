//! What the targets share: a directory in memory to write files into, and files put together from an input.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use models::TensorSource;
use serde_json::Value;
use tempfile::TempDir;

/// Most bytes that a header gets as its data.
const MOST_DATA: u64 = 1 << 16;

/// A directory for the files of one input; its readers take paths.
pub struct Scratch(TempDir);

impl Scratch {
    /// In memory where the system has a place for that.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fuzz-").tempdir_in("/dev/shm");
        Self(dir.or_else(|_| tempfile::tempdir()).expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, in directories that are made.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, bytes).expect("a file in a new directory");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// The parts of an input, between zero bytes; the last one is all that is left.
pub fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut parts = input.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A safetensors file whose length of the header is right, and which has as many bytes of data as the header names.
pub fn safetensors(header: &[u8], data: &[u8]) -> Vec<u8> {
    let named = serde_json::from_slice::<Value>(header).ok().and_then(|header| {
        let ends = header.as_object()?.values().map(|t| t["data_offsets"][1].as_u64());
        ends.flatten().filter(|end| *end <= MOST_DATA).max()
    });
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(data.iter().chain(std::iter::repeat(&0)).take(named.unwrap_or(0) as usize));
    bytes
}

/// Reads every tensor, whose elements must be as many as its shape says.
pub fn read_all(source: &dyn TensorSource) {
    for name in source.names() {
        let info = source.info(name).expect("a listed tensor");
        let Ok(tensor) = source.read(name) else { continue };
        assert_eq!(info.shape, tensor.shape, "{name}");
        assert_eq!(tensor.to_f32().len(), tensor.numel(), "{name}");
        source.release(name);
    }
}

/// The tokenizer of the tests, with a token for each byte.
pub static TOKENIZER: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
    let json = include_bytes!("../../tests/fixtures/tokenizer/tokenizer.json");
    tokenizers::Tokenizer::from_bytes(json).expect("a fixture")
});
