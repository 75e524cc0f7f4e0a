//! Quantised weights under bitsandbytes' checkpoint keys.
//!
//! A module `m` is stored as `m.weight` (packed codes, `[n, 1]`), `m.weight.absmax`,
//! `m.weight.quant_map`, with double quantisation also `m.weight.nested_absmax` and
//! `m.weight.nested_quant_map`, and `m.weight.quant_state.bitsandbytes__nf4` (or `__fp4`), a byte
//! tensor that holds JSON (bitsandbytes `QuantState.as_dict(packed=True)`).

use std::borrow::Cow;

use crate::tensor::{Absmax, Parts};
use crate::{Error, NestedAbsmax, QuantType, QuantizedTensor};

mod json;

use json::{Nested, StateJson};

/// How far a stored code book may be from ours; bitsandbytes compares with the same tolerance.
const QUANT_MAP_TOLERANCE: f32 = 1e-6;

/// Dtype of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateDtype {
    /// Bytes.
    U8,
    /// Single precision.
    F32,
    /// bfloat16: packed codes only, when `bnb_4bit_quant_storage` says so.
    Bf16,
    /// Half precision: packed codes only, when `bnb_4bit_quant_storage` says so.
    F16,
}

impl StateDtype {
    /// The name safetensors uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::U8 => "U8",
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }
}

/// One stored tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor<'a> {
    /// Dtype of the elements.
    pub dtype: StateDtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Little-endian elements in row-major order.
    pub bytes: Cow<'a, [u8]>,
}

/// The tensors of module `module` under their full keys, as bitsandbytes would write them.
pub fn to_tensors<'a>(tensor: &'a QuantizedTensor, module: &str) -> Vec<(String, StateTensor<'a>)> {
    let quant_type = tensor.quant_type();
    let packed = bytes_tensor(tensor.packed());
    let state = StateJson::of(tensor).to_json().into_bytes();
    let state_key = state_suffix(quant_type);
    let mut tensors = vec![
        ("", StateTensor { shape: vec![tensor.packed().len(), 1], ..packed }),
        (".quant_map", f32_tensor(quant_type.values())),
        (
            state_key,
            StateTensor {
                dtype: StateDtype::U8,
                shape: vec![state.len()],
                bytes: Cow::Owned(state),
            },
        ),
    ];
    match tensor.absmax() {
        Absmax::Plain(absmax) => tensors.push((".absmax", f32_tensor(absmax))),
        Absmax::Nested(nested) => tensors.extend([
            (".absmax", bytes_tensor(&nested.codes)),
            (".nested_absmax", f32_tensor(&nested.absmax)),
            (".nested_quant_map", f32_tensor(nested.map.as_slice())),
        ]),
    }
    tensors
        .into_iter()
        .map(|(suffix, tensor)| (format!("{module}.weight{suffix}"), tensor))
        .collect()
}

/// Puts the weight of `module` together from stored tensors, found by full key through `get`.
///
/// Errors when a key is missing, has the wrong dtype or length, the JSON cannot be read, or the
/// code book is not the one its type names.
pub fn from_tensors<'a>(
    module: &str,
    get: impl Fn(&str) -> Option<StateTensor<'a>>,
) -> Result<QuantizedTensor, Error> {
    let source = Source { module, get };
    let (state_key, state) = source.state()?;
    source.check_quant_map(state.quant_type)?;
    let absmax = match &state.nested {
        None => Absmax::Plain(source.floats(".absmax")?),
        Some(nested) => Absmax::Nested(source.nested(nested, &state_key)?),
    };
    let parts = Parts {
        quant_type: state.quant_type,
        blocksize: state.blocksize,
        source_dtype: state.dtype,
        shape: state.shape,
        packed: source.tensor("")?.bytes.into_owned(),
        absmax,
    };
    QuantizedTensor::from_parts(&source.key(""), parts)
}

/// The stored tensors of one module.
struct Source<'m, F> {
    module: &'m str,
    get: F,
}

impl<'a, F: Fn(&str) -> Option<StateTensor<'a>>> Source<'_, F> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.weight{suffix}", self.module)
    }

    fn tensor(&self, suffix: &str) -> Result<StateTensor<'a>, Error> {
        let key = self.key(suffix);
        (self.get)(&key).ok_or(Error::MissingKey { key })
    }

    fn bytes(&self, suffix: &str) -> Result<Cow<'a, [u8]>, Error> {
        self.typed(suffix, StateDtype::U8)
    }

    fn floats(&self, suffix: &str) -> Result<Vec<f32>, Error> {
        let bytes = self.typed(suffix, StateDtype::F32)?;
        let (floats, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(Error::State {
                key: self.key(suffix),
                message: format!("{} bytes are not a whole number of f32", bytes.len()),
            });
        }
        Ok(floats.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn typed(&self, suffix: &str, expected: StateDtype) -> Result<Cow<'a, [u8]>, Error> {
        let tensor = self.tensor(suffix)?;
        if tensor.dtype == expected {
            return Ok(tensor.bytes);
        }
        Err(Error::Dtype {
            key: self.key(suffix),
            expected: expected.as_str(),
            actual: tensor.dtype.as_str(),
        })
    }

    /// The JSON part and the key it stands under.
    fn state(&self) -> Result<(String, StateJson), Error> {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            let suffix = state_suffix(quant_type);
            let key = self.key(suffix);
            if (self.get)(&key).is_none() {
                continue;
            }
            let state = StateJson::parse(&key, &self.bytes(suffix)?)?;
            if state.quant_type != quant_type {
                let message = format!("it says quant_type {}", state.quant_type.as_str());
                return Err(Error::State { key, message });
            }
            return Ok((key, state));
        }
        let key = self.key(".quant_state.bitsandbytes__nf4");
        Err(Error::MissingKey { key })
    }

    fn check_quant_map(&self, quant_type: QuantType) -> Result<(), Error> {
        let stored = self.floats(".quant_map")?;
        let ours = quant_type.values();
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= QUANT_MAP_TOLERANCE;
        if stored.len() == ours.len() && stored.iter().zip(ours).all(close) {
            return Ok(());
        }
        Err(Error::State {
            key: self.key(".quant_map"),
            message: format!("these are not the 16 values of {}", quant_type.as_str()),
        })
    }

    fn nested(&self, state: &Nested, state_key: &str) -> Result<NestedAbsmax, Error> {
        if state.dtype != "float32" {
            return Err(Error::State {
                key: state_key.to_owned(),
                message: format!("nested_dtype is {}, expected float32", state.dtype),
            });
        }
        let map = self.floats(".nested_quant_map")?;
        let map = <Box<[f32; 256]>>::try_from(map).map_err(|map| Error::State {
            key: self.key(".nested_quant_map"),
            message: format!("it has {} values, expected 256", map.len()),
        })?;
        Ok(NestedAbsmax {
            codes: self.bytes(".absmax")?.into_owned(),
            absmax: self.floats(".nested_absmax")?,
            offset: state.offset as f32,
            blocksize: state.blocksize,
            map,
        })
    }
}

fn state_suffix(quant_type: QuantType) -> &'static str {
    match quant_type {
        QuantType::Nf4 => ".quant_state.bitsandbytes__nf4",
        QuantType::Fp4 => ".quant_state.bitsandbytes__fp4",
    }
}

fn bytes_tensor(bytes: &[u8]) -> StateTensor<'_> {
    StateTensor { dtype: StateDtype::U8, shape: vec![bytes.len()], bytes: Cow::Borrowed(bytes) }
}

fn f32_tensor(values: &[f32]) -> StateTensor<'static> {
    StateTensor {
        dtype: StateDtype::F32,
        shape: vec![values.len()],
        bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}
