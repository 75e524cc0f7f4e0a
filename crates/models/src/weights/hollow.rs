//! Zeros in the place of a model's weights: to find out what the model takes without reading it, or having it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytemuck::zeroed_vec;
use nf4::{Absmax, QuantConfig, QuantizedTensor, SourceDtype};

use super::missing_tensor;
use crate::{
    Error, HostData, HostTensor, ModelConfig, Result, StorageType, TensorInfo, TensorSource,
};

/// A checkpoint of zeros. Memory of a tensor that is only measured is never touched.
#[derive(Debug, Clone)]
pub struct Hollow {
    path: PathBuf,
    tensors: BTreeMap<String, (Vec<usize>, Encoding)>,
}

/// How a source hands a tensor out.
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Dense(SourceDtype),
    Quantized(QuantConfig),
}

impl Hollow {
    /// The model of `config` as it is published: in its own type, bf16 where it names none, the linears in 4 bit
    /// where it says so. `path` is for messages.
    pub fn new(config: &ModelConfig, path: &Path) -> Result<Self> {
        let dense = Encoding::Dense(config.dtype.unwrap_or(SourceDtype::Bf16));
        let linear = match config.quantization {
            None => dense,
            Some(bnb) => {
                let (quant_type, double) = (bnb.bnb_4bit_quant_type, bnb.bnb_4bit_use_double_quant);
                let blocksize = QuantConfig::default().blocksize;
                let config = QuantConfig::new(quant_type, blocksize, double);
                Encoding::Quantized(config.map_err(|e| Error::format(path, e.to_string()))?)
            }
        };
        let linears: Vec<String> = config
            .linears()
            .into_iter()
            .map(|linear| format!("{}.weight", linear.module))
            .collect();
        let encoding = |name: &String| if linears.contains(name) { linear } else { dense };
        let tensors = config.parameters().into_iter();
        let tensors = tensors.map(|(name, shape)| {
            let encoding = encoding(&name);
            (name, (shape, encoding))
        });
        Ok(Self { path: path.to_owned(), tensors: tensors.collect() })
    }

    /// The tensors of `source`, as it hands them out: of each of its storage types the smallest is read.
    pub fn of(source: &dyn TensorSource) -> Result<Self> {
        let mut infos = Vec::new();
        for name in source.names() {
            let info = source.info(name).ok_or_else(|| missing_tensor(source, name))?;
            infos.push((name, info));
        }
        infos.sort_by_key(|(_, info)| info.numel());
        let mut known: Vec<(StorageType, Encoding)> = Vec::new();
        let mut tensors = BTreeMap::new();
        for (name, info) in infos {
            let found = known.iter().find(|(storage, _)| *storage == info.storage);
            let encoding = if let Some((_, encoding)) = found {
                *encoding
            } else {
                let encoding = Encoding::of(&source.read(name)?.data);
                known.push((info.storage, encoding));
                encoding
            };
            tensors.insert(name.to_owned(), (info.shape, encoding));
        }
        Ok(Self { path: source.path().to_owned(), tensors })
    }
}

impl Encoding {
    fn of(data: &HostData<'_>) -> Self {
        match data {
            HostData::F32(_) => Self::Dense(SourceDtype::F32),
            HostData::Bf16(_) => Self::Dense(SourceDtype::Bf16),
            HostData::F16(_) => Self::Dense(SourceDtype::F16),
            HostData::Quantized(tensor) => Self::Quantized(QuantConfig {
                quant_type: tensor.quant_type(),
                blocksize: tensor.blocksize(),
                double_quant: matches!(tensor.absmax(), Absmax::Nested(_)),
            }),
        }
    }

    const fn storage(self) -> StorageType {
        match self {
            Self::Dense(SourceDtype::F32) => StorageType::F32,
            Self::Dense(SourceDtype::Bf16) => StorageType::Bf16,
            Self::Dense(SourceDtype::F16) => StorageType::F16,
            Self::Quantized(config) => match config.quant_type {
                nf4::QuantType::Nf4 => StorageType::Nf4,
                nf4::QuantType::Fp4 => StorageType::Fp4,
            },
        }
    }

    /// Bytes of an element, nothing counted for scales.
    const fn size(self) -> (u64, u64) {
        match self {
            Self::Dense(SourceDtype::F32) => (4, 1),
            Self::Dense(SourceDtype::Bf16 | SourceDtype::F16) => (2, 1),
            Self::Quantized(_) => (1, 2),
        }
    }
}

impl TensorSource for Hollow {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let (shape, encoding) = self.tensors.get(name)?;
        let info = TensorInfo { storage: encoding.storage(), shape: shape.clone(), bytes: 0 };
        let (bytes, elements) = encoding.size();
        Some(TensorInfo { bytes: (info.numel() as u64 * bytes).div_ceil(elements), ..info })
    }

    fn read(&self, name: &str) -> Result<HostTensor<'_>> {
        let Some((shape, encoding)) = self.tensors.get(name) else {
            return Err(missing_tensor(self, name));
        };
        let len = shape.iter().product();
        let data = match *encoding {
            Encoding::Dense(SourceDtype::F32) => HostData::F32(zeroed_vec(len).into()),
            Encoding::Dense(SourceDtype::Bf16) => HostData::Bf16(zeroed_vec(len).into()),
            Encoding::Dense(SourceDtype::F16) => HostData::F16(zeroed_vec(len).into()),
            Encoding::Quantized(config) => {
                let tensor = QuantizedTensor::zeros(name, shape, &config);
                HostData::Quantized(
                    tensor.map_err(|e| Error::tensor(&self.path, name, e.to_string()))?,
                )
            }
        };
        Ok(HostTensor { shape: shape.clone(), data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Checkpoint;

    fn fixture(model: &str) -> Checkpoint {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
        Checkpoint::open(&Path::new(models).join(model)).unwrap()
    }

    #[test]
    fn tensors_are_those_of_the_source() {
        for model in ["llama", "llama-bnb4", "qwen2"] {
            let real = fixture(model);
            let hollow = Hollow::of(&real).unwrap();
            let published = Hollow::new(real.config(), real.path()).unwrap();
            assert_eq!(hollow.names(), real.names());
            for name in real.names() {
                let (real, hollow) = (real.read(name).unwrap(), hollow.read(name).unwrap());
                assert_eq!(hollow.shape, real.shape);
                assert_eq!(
                    format!("{:?}", Encoding::of(&hollow.data)),
                    format!("{:?}", Encoding::of(&real.data))
                );
                assert!(hollow.to_f32().iter().all(|x| *x == 0.0));
                assert_eq!(published.read(name).unwrap().shape, real.shape);
            }
        }
    }
}
