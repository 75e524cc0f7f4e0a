//! Reading the fixtures.

use std::path::PathBuf;

use safetensors::{SafeTensors, tensor::TensorView};

/// The bytes of a file under the project's `tests/fixtures`.
pub(crate) fn fixture(path: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let path = root.join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tensors of a safetensors file.
pub(crate) fn parse(bytes: &[u8]) -> SafeTensors<'_> {
    SafeTensors::deserialize(bytes).expect("the fixture is a safetensors file")
}

/// The elements of a tensor.
pub(crate) fn elements<T: bytemuck::AnyBitPattern>(tensor: &TensorView<'_>) -> Vec<T> {
    tensor.data().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}
