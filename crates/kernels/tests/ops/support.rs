//! Random operands, transfers, and the tolerance.

use half::bf16;
use kernels::{Backend, Buffer, DType, HostSlice, MemoryKind, Philox};

/// Element types of float operands, each of which may differ from the others.
pub(crate) const FLOATS: [DType; 2] = [DType::F32, DType::Bf16];

/// Host tensor whose values a dtype can hold.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) f32: Vec<f32>,
    pub(crate) f64: Vec<f64>,
    pub(crate) dtype: DType,
}

impl Host {
    pub(crate) fn new(dtype: DType, values: Vec<f32>) -> Self {
        let f32 = rounded(dtype, values);
        let f64 = f32.iter().copied().map(f64::from).collect();
        Self { f32, f64, dtype }
    }

    /// Standard normal values.
    pub(crate) fn normal(dtype: DType, seed: u64, len: usize) -> Self {
        let philox = Philox::new(seed, 0);
        Self::new(dtype, (0..len as u64).map(|i| philox.normal(i)).collect())
    }

    pub(crate) fn upload<K: Backend>(&self, k: &K) -> K::Buffer {
        upload(k, self.dtype, &self.f32)
    }
}

/// Values as `dtype` holds them.
pub(crate) fn rounded(dtype: DType, values: Vec<f32>) -> Vec<f32> {
    match dtype {
        DType::Bf16 => values.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect(),
        _ => values,
    }
}

pub(crate) fn upload<K: Backend>(k: &K, dtype: DType, values: &[f32]) -> K::Buffer {
    let kind = MemoryKind::Activations;
    let uploaded = match dtype {
        DType::F32 => k.upload(HostSlice::F32(values), kind),
        DType::Bf16 => {
            let narrow: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
            k.upload(HostSlice::Bf16(&narrow), kind)
        }
        DType::U32 | DType::U8 => unreachable!("float data"),
    };
    uploaded.unwrap()
}

pub(crate) fn upload_u8<K: Backend>(k: &K, values: &[u8]) -> K::Buffer {
    k.upload(HostSlice::U8(values), MemoryKind::Optimizer).unwrap()
}

pub(crate) fn upload_u32<K: Backend>(k: &K, values: &[u32]) -> K::Buffer {
    k.upload(HostSlice::U32(values), MemoryKind::Data).unwrap()
}

/// A result buffer full of NaN, so that elements left unwritten show.
pub(crate) fn output<K: Backend>(k: &K, dtype: DType, len: usize) -> K::Buffer {
    upload(k, dtype, &vec![f32::NAN; len])
}

/// Units of f32 rounding, relative to the largest element, that are always allowed: a naive
/// implementation may be exact by luck.
pub(crate) const FLOOR: f64 = 8.0 / 16_777_216.0;

/// The same where bf16 activations meet f32 factors: tensor cores take these as sums of two bf16
/// values, which miss 2^-18 of them - of every term, so more of a sum that cancels - while an
/// activation itself is known to 2^-9.
const FLOOR_OF_BF16: f64 = 1.0 / 65_536.0;

/// A backend may be three times as far from the truth as the naive implementation of the same
/// dtype, in the largest deviation of any element.
#[track_caller]
pub(crate) fn assert_close<K: Backend>(
    k: &K,
    what: &str,
    got: &K::Buffer,
    naive: &[f32],
    truth: &[f64],
) {
    assert_close_above(k, (FLOOR, 0.0), what, got, naive, truth);
}

/// [`assert_close`] for products of activations of `dtype` with f32 factors, sums of `depth` products of
/// normal values: they pass through about the root of that, however small they end, and are known to the
/// precision of that.
#[track_caller]
pub(crate) fn assert_close_product<K: Backend>(
    k: &K,
    (dtype, depth): (DType, usize),
    what: &str,
    got: &K::Buffer,
    naive: &[f32],
    truth: &[f64],
) {
    let floor = if dtype == DType::Bf16 { FLOOR_OF_BF16 } else { FLOOR };
    assert_close_above(k, (floor, (depth as f64).sqrt()), what, got, naive, truth);
}

/// [`assert_close`] with a floor of the tolerance, as a share of the largest element or of `least`.
#[track_caller]
pub(crate) fn assert_close_above<K: Backend>(
    k: &K,
    (floor, least): (f64, f64),
    what: &str,
    got: &K::Buffer,
    naive: &[f32],
    truth: &[f64],
) {
    let values = k.download(got).unwrap();
    let naive = rounded(got.dtype(), naive.to_vec());
    assert_eq!(values.len(), truth.len(), "{what}: length");
    let largest = truth.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    let allowed = 3.0 * deviation(&naive, truth) + floor * largest.max(least);
    let error = deviation(&values, truth);
    assert!(
        error <= allowed,
        "{what}: deviates by {error:e}, allowed are {allowed:e} (largest element {largest:e})"
    );
}

/// Largest deviation; infinite where only one of a pair is NaN.
fn deviation(values: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(values.len(), truth.len());
    let pairs = values.iter().map(|&x| f64::from(x)).zip(truth);
    pairs.fold(0.0, |worst, (x, &truth)| match (x.is_nan(), truth.is_nan()) {
        (true, true) => worst,
        (false, false) if x == truth => worst,
        (false, false) => f64::max(worst, (x - truth).abs()),
        _ => f64::INFINITY,
    })
}

#[test]
fn deviation_sees_nan() {
    assert_eq!(deviation(&[f32::NAN, 1.0], &[f64::NAN, 1.5]), 0.5);
    assert_eq!(deviation(&[f32::NAN], &[0.0]), f64::INFINITY);
    assert_eq!(deviation(&[0.0], &[f64::NAN]), f64::INFINITY);
    assert_eq!(deviation(&[f32::INFINITY], &[f64::INFINITY]), 0.0);
}
