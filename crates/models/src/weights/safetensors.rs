//! One safetensors file, mapped.

use std::path::Path;

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::Metadata};

use super::{MappedFile, StorageType, TensorInfo};
use crate::{Error, Result};

/// The header of a mapped safetensors file, checked against its length.
pub(crate) struct SafetensorsFile {
    file: MappedFile,
    metadata: Metadata,
    data_start: usize,
}

/// A tensor as it lies in the file.
#[derive(Clone, Copy)]
pub(crate) struct RawTensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl RawTensor<'_> {
    pub(crate) fn storage(&self) -> StorageType {
        match self.dtype {
            Dtype::F32 => StorageType::F32,
            Dtype::BF16 => StorageType::Bf16,
            Dtype::F16 => StorageType::F16,
            Dtype::BOOL => StorageType::Other("BOOL"),
            Dtype::U8 => StorageType::Other("U8"),
            Dtype::I8 => StorageType::Other("I8"),
            Dtype::I32 => StorageType::Other("I32"),
            Dtype::I64 => StorageType::Other("I64"),
            Dtype::F64 => StorageType::Other("F64"),
            Dtype::F8_E4M3 => StorageType::Other("F8_E4M3"),
            Dtype::F8_E5M2 => StorageType::Other("F8_E5M2"),
            _ => StorageType::Other("unsupported"),
        }
    }

    pub(crate) fn info(&self) -> TensorInfo {
        TensorInfo {
            storage: self.storage(),
            shape: self.shape.to_vec(),
            bytes: self.bytes.len() as u64,
        }
    }
}

impl SafetensorsFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path).map_err(Error::io(path))?.len();
        if length == 0 {
            return Err(Error::format(path, "the file is empty; copy or download it again"));
        }
        let file = MappedFile::open(path)?;
        if file.starts_with(b"version https://git-lfs") {
            return Err(Error::format(
                path,
                "this is a Git LFS pointer, not the weights; run `git lfs pull`",
            ));
        }
        let (header_len, metadata) = SafeTensors::read_metadata(&file)
            .map_err(|e| Error::format(path, explain(&e, length)))?;
        Ok(Self { file, metadata, data_start: size_of::<u64>() + header_len })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Takes the pages of a tensor out of memory.
    pub(crate) fn release(&self, name: &str) {
        if let Some(tensor) = self.get(name) {
            self.file.release(tensor.bytes);
        }
    }

    /// The same of the whole file.
    pub(crate) fn release_all(&self) {
        self.file.release(&self.file);
    }

    pub(crate) fn get(&self, name: &str) -> Option<RawTensor<'_>> {
        let entry = self.metadata.info(name)?;
        let (start, end) = entry.data_offsets;
        // The header was checked against the length of the file when it was opened.
        let bytes = self.file.get(self.data_start + start..self.data_start + end)?;
        Some(RawTensor { dtype: entry.dtype, shape: &entry.shape, bytes })
    }
}

fn explain(error: &SafeTensorError, length: u64) -> String {
    use SafeTensorError as E;
    match error {
        E::HeaderTooSmall | E::InvalidHeaderLength | E::MetadataIncompleteBuffer => format!(
            "not a complete safetensors file: its {length} bytes do not match what its header announces; \
             it was probably cut off, copy or download it again"
        ),
        E::HeaderTooLarge | E::InvalidHeader(_) | E::InvalidHeaderDeserialization(_) => {
            format!("not a safetensors file ({error})")
        }
        _ => format!("damaged safetensors header ({error}); copy or download the file again"),
    }
}
