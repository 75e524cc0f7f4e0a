//! `optimizer.safetensors`: the moments of every parameter, under torch's names.

use std::path::Path;

use anyhow::{Context, Result, bail};
use autograd::MomentsState;
use models::weights::{StoredTensor, write_safetensors};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

const NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// Writes the moments of the parameters, by name.
pub(super) fn write(path: &Path, moments: &[(String, MomentsState)]) -> Result<()> {
    let mut tensors = Vec::new();
    for (param, moments) in moments {
        match moments {
            MomentsState::F32(both) => {
                for (name, values) in NAMES.iter().zip(both) {
                    let tensor = StoredTensor::f32(&[values.len()], values);
                    tensors.push((format!("{param}.{name}"), tensor));
                }
            }
            MomentsState::Eight(both) => {
                for (name, (codes, absmax)) in NAMES.iter().zip(both) {
                    let shape = vec![codes.len()];
                    let codes = StoredTensor { dtype: Dtype::U8, shape, bytes: codes.into() };
                    tensors.push((format!("{param}.{name}.codes"), codes));
                    let absmax = StoredTensor::f32(&[absmax.len()], absmax);
                    tensors.push((format!("{param}.{name}.absmax"), absmax));
                }
            }
        }
    }
    Ok(write_safetensors(path, tensors)?)
}

/// Reads the moments of the parameters of these names, in their order.
pub(super) fn read<'a>(
    path: &Path,
    params: impl Iterator<Item = &'a str>,
) -> Result<Vec<MomentsState>> {
    let at = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(at)?;
    let file = SafeTensors::deserialize(&bytes).with_context(at)?;
    params.map(|param| read_one(&file, param).with_context(at)).collect()
}

fn read_one(file: &SafeTensors<'_>, param: &str) -> Result<MomentsState> {
    let f32 = |name: &str| -> Result<Vec<f32>> {
        let values = typed(file, name, Dtype::F32)?.data().chunks_exact(4);
        Ok(values.map(|x| f32::from_le_bytes(x.try_into().expect("4 bytes"))).collect())
    };
    let [first, second] = NAMES.map(|name| format!("{param}.{name}"));
    if file.tensor(&first).is_ok() {
        return Ok(MomentsState::F32([f32(&first)?, f32(&second)?]));
    }
    let eight = |name: &str| -> Result<_> {
        let codes = typed(file, &format!("{name}.codes"), Dtype::U8)?.data().to_vec();
        Ok((codes, f32(&format!("{name}.absmax"))?))
    };
    Ok(MomentsState::Eight([eight(&first)?, eight(&second)?]))
}

fn typed<'a>(file: &SafeTensors<'a>, name: &str, dtype: Dtype) -> Result<TensorView<'a>> {
    let Ok(tensor) = file.tensor(name) else { bail!("tensor `{name}` is missing") };
    if tensor.dtype() != dtype {
        bail!("tensor `{name}` has type {:?}, not {dtype:?}", tensor.dtype());
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("optimizer.safetensors");
        let moments = [
            ("b".to_owned(), MomentsState::F32([vec![1.0, f32::MIN_POSITIVE], vec![-0.0, 3.0]])),
            (
                "a".to_owned(),
                MomentsState::Eight([(vec![0, 255, 7], vec![0.5]), (vec![1, 2, 3], vec![2.5])]),
            ),
        ];
        write(&path, &moments).unwrap();
        let read_all = |names: &[&str]| read(&path, names.iter().copied());
        assert_eq!(read_all(&["b", "a"]).unwrap(), moments.clone().map(|(_, moments)| moments));
        let error = format!("{:#}", read_all(&["c"]).unwrap_err());
        assert!(error.contains("`c.exp_avg.codes` is missing"), "{error}");
    }
}
