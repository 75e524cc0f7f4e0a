//! Weights of a GGUF file as a [`TensorSource`].

use std::{borrow::Cow, path::Path};

use half::{bf16, f16};
use nf4::{Element, SourceDtype};
use rayon::prelude::*;

use super::{
    GgufFile,
    dequant::dequantize,
    ggml_type::{Encoding, GgmlType},
    parse::TensorEntry,
};
use crate::{
    Error, HostData, HostTensor, Result, TensorInfo, TensorSource, weights::missing_tensor,
};

/// Rows a thread decodes at least before work is split further.
const MIN_ROWS_PER_TASK: usize = 16;

impl TensorSource for GgufFile {
    fn path(&self) -> &Path {
        Self::path(self)
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = &self.header.tensors[*self.tensors.get(name)?];
        Some(TensorInfo {
            storage: tensor.ty.storage(),
            shape: tensor.shape.clone(),
            bytes: tensor.range.len() as u64,
        })
    }

    fn read(&self, name: &str) -> Result<HostTensor<'_>> {
        let Some(&index) = self.tensors.get(name) else {
            return Err(missing_tensor(self, name));
        };
        let tensor = &self.header.tensors[index];
        let Some(encoding) = tensor.ty.encoding else {
            let message = format!(
                "stored as {} (`{}` in the file); supported are {}",
                tensor.ty.name,
                tensor.name,
                GgmlType::supported_names()
            );
            return Err(Error::tensor(self.path(), name, message));
        };
        let rows = Rows::new(tensor, self.head_height(name))
            .map_err(|message| Error::tensor(self.path(), name, message))?;
        let bytes = &self.file[tensor.range.clone()];
        let data = match self.dtype {
            SourceDtype::F32 => HostData::F32(rows.read(encoding, bytes)),
            SourceDtype::Bf16 => HostData::Bf16(rows.read(encoding, bytes)),
            SourceDtype::F16 => HostData::F16(rows.read(encoding, bytes)),
        };
        Ok(HostTensor { shape: tensor.shape.clone(), data })
    }

    fn release(&self, name: &str) {
        if let Some(&index) = self.tensors.get(name) {
            self.file.release(&self.file[self.header.tensors[index].range.clone()]);
        }
    }

    fn release_all(&self) {
        self.file.release(&self.file);
    }
}

impl GgufFile {
    /// Heads whose rows are permuted in the tensor with Hugging Face name `name`.
    fn head_height(&self, name: &str) -> Option<usize> {
        let (query, key) = self.head_height?;
        match name.rsplit('.').nth(1)? {
            "q_proj" => Some(query),
            "k_proj" => Some(key),
            _ => None,
        }
    }
}

/// A tensor as rows that are decoded on their own.
struct Rows {
    /// Elements in a row.
    columns: usize,
    row_bytes: usize,
    /// Rows of one head when the rows of each head are permuted.
    head_height: Option<usize>,
}

impl Rows {
    fn new(tensor: &TensorEntry, heads: Option<usize>) -> Result<Self, String> {
        let columns = match (tensor.shape.as_slice(), heads) {
            // A permuted bias moves single elements.
            ([_], Some(_)) if tensor.ty.block == 1 => 1,
            (shape, _) => shape[shape.len() - 1],
        };
        let rows = tensor.shape.iter().product::<usize>() / columns;
        let row_bytes = columns / tensor.ty.block * tensor.ty.block_bytes;
        let Some(heads) = heads else {
            return Ok(Self { columns, row_bytes, head_height: None });
        };
        match rows.checked_div(heads) {
            Some(height) if height * heads == rows && height.is_multiple_of(2) => {
                Ok(Self { columns, row_bytes, head_height: Some(height) })
            }
            _ => Err(format!("{rows} rows cannot be {heads} heads of an even width")),
        }
    }

    /// The row of the file that is row `row` of the tensor.
    ///
    /// llama.cpp's converter splits the rows of a head into two halves and interleaves them
    /// (`LlamaModel.permute` in `convert_hf_to_gguf.py`).
    fn source(&self, row: usize) -> usize {
        let Some(head_height) = self.head_height else { return row };
        let (start, within, half) = (row - row % head_height, row % head_height, head_height / 2);
        start + within % half * 2 + within / half
    }

    /// All elements: borrowed when they are stored in order and as `T`, else decoded row by row in parallel.
    fn read<'a, T>(&self, encoding: Encoding, bytes: &'a [u8]) -> Cow<'a, [T]>
    where
        T: Element + Stored + bytemuck::AnyBitPattern,
    {
        if encoding == T::ENCODING
            && self.head_height.is_none()
            && let Ok(elements) = bytemuck::try_cast_slice(bytes)
        {
            return Cow::Borrowed(elements);
        }
        let rows = bytes.len() / self.row_bytes;
        let mut out = vec![T::from_f32(0.0); rows * self.columns];
        out.par_chunks_mut(self.columns).enumerate().with_min_len(MIN_ROWS_PER_TASK).for_each_init(
            || vec![0.0; self.columns],
            |decoded, (row, out)| {
                let start = self.source(row) * self.row_bytes;
                dequantize(encoding, &bytes[start..start + self.row_bytes], decoded);
                for (out, x) in out.iter_mut().zip(decoded) {
                    *out = T::from_f32(*x);
                }
            },
        );
        Cow::Owned(out)
    }
}

/// An element type and the ggml type that is its little-endian bytes.
trait Stored {
    const ENCODING: Encoding;
}

impl Stored for f32 {
    const ENCODING: Encoding = Encoding::F32;
}

impl Stored for bf16 {
    const ENCODING: Encoding = Encoding::Bf16;
}

impl Stored for f16 {
    const ENCODING: Encoding = Encoding::F16;
}
