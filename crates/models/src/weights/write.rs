//! Writing safetensors files, one tensor at a time.

use std::{borrow::Cow, collections::HashMap, path::Path};

use half::{bf16, f16};
use nf4::state::{StateDtype, StateTensor};
use safetensors::{Dtype, tensor::Metadata, tensor::TensorInfo as Entry};

use super::{HostData, HostTensor, atomic::write_file};
use crate::{Error, Result};

/// A tensor as it is stored in a safetensors file.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> StoredTensor<'a> {
    /// An f32 tensor.
    pub fn f32(shape: &[usize], data: &'a [f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: Cow::Borrowed(bytemuck::cast_slice(data)),
        }
    }

    /// The same tensor with its own copy of the elements.
    pub fn into_owned(self) -> StoredTensor<'static> {
        StoredTensor { bytes: Cow::Owned(self.bytes.into_owned()), ..self }
    }
}

impl<'a> From<StateTensor<'a>> for StoredTensor<'a> {
    fn from(tensor: StateTensor<'a>) -> Self {
        let dtype = match tensor.dtype {
            StateDtype::U8 => Dtype::U8,
            StateDtype::F32 => Dtype::F32,
            StateDtype::Bf16 => Dtype::BF16,
            StateDtype::F16 => Dtype::F16,
        };
        Self { dtype, shape: tensor.shape, bytes: tensor.bytes }
    }
}

/// The bytes of a dense tensor; `None` for a quantized one.
pub(super) fn dense(tensor: HostTensor<'_>) -> Option<StoredTensor<'_>> {
    let shape = tensor.shape;
    Some(match tensor.data {
        HostData::F32(data) => StoredTensor { dtype: Dtype::F32, shape, bytes: bytes(data) },
        HostData::Bf16(data) => {
            StoredTensor { dtype: Dtype::BF16, shape, bytes: bytes::<bf16>(data) }
        }
        HostData::F16(data) => StoredTensor { dtype: Dtype::F16, shape, bytes: bytes::<f16>(data) },
        HostData::Quantized(_) => return None,
    })
}

fn bytes<T: bytemuck::NoUninit>(data: Cow<'_, [T]>) -> Cow<'_, [u8]> {
    match data {
        Cow::Borrowed(data) => Cow::Borrowed(bytemuck::cast_slice(data)),
        Cow::Owned(data) => Cow::Owned(bytemuck::cast_slice(&data).to_vec()),
    }
}

/// Writes a safetensors file that appears at `path` complete or not at all. The bytes depend on the arguments only.
///
/// # Errors
/// [`Error::Io`], or [`Error::Tensor`] when shape, type and number of bytes of a tensor do not fit together or two
/// tensors have the same name.
pub fn write_safetensors(path: &Path, mut tensors: Vec<(String, StoredTensor<'_>)>) -> Result<()> {
    // Wide types first, as the reference writer does, so that every tensor is aligned.
    tensors.sort_by(|(a, x), (b, y)| y.dtype.cmp(&x.dtype).then_with(|| a.cmp(b)));
    let header = header(path, &tensors)?;
    write_file(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        tensors.iter().try_for_each(|(_, tensor)| put(&tensor.bytes))
    })
}

fn header(path: &Path, tensors: &[(String, StoredTensor<'_>)]) -> Result<Vec<u8>> {
    let mut names = std::collections::HashSet::new();
    let mut end = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        if !names.insert(name) {
            return Err(Error::tensor(path, name, "is given twice"));
        }
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize();
        if expected != tensor.bytes.len() * 8 {
            let message = format!(
                "{} bytes do not make shape {:?} of type {:?}",
                tensor.bytes.len(),
                tensor.shape,
                tensor.dtype
            );
            return Err(Error::tensor(path, name, message));
        }
        let start = end;
        end += tensor.bytes.len();
        let entry =
            Entry { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (start, end) };
        entries.push((name.clone(), entry));
    }
    // Transformers wants to know the framework.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |e: &dyn std::fmt::Display| {
        Error::format(path, format!("cannot make the safetensors header: {e}"))
    };
    let metadata = Metadata::new(Some(about), entries).map_err(|e| failed(&e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| failed(&e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
