//! Linears to check: weights as they are stored, operands on the host and on a backend.

use kernels::ops::{Dropout, Linear, Lora, Weight};
use kernels::reference::{self, LinearInputs, LoraInputs};
use kernels::{Backend, DType};
use nf4::{QuantConfig, QuantType};

use crate::arithmetic::has_matrix_unit;
use crate::support::{Host, output, rounded};

/// What the frozen weight is stored as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stored {
    Dense(DType),
    Quantized { quant_type: QuantType, blocksize: usize, double_quant: bool },
}

impl Stored {
    /// A normal weight `[n, k]`: what it is worth, and its blocks if it is quantised.
    pub(crate) fn weight(self, n: usize, k: usize) -> (Host, Option<nf4::QuantizedTensor>) {
        self.weight_of(2, n, k)
    }

    fn weight_of(self, seed: u64, n: usize, k: usize) -> (Host, Option<nf4::QuantizedTensor>) {
        let w = Host::normal(DType::F32, seed, n * k).f32;
        match self {
            Self::Dense(dtype) => (Host::new(dtype, w), None),
            Self::Quantized { quant_type, blocksize, double_quant } => {
                let config = QuantConfig::new(quant_type, blocksize, double_quant).unwrap();
                let quantized = nf4::quantize("w", &w, &[n, k], &config).unwrap();
                (Host::new(DType::F32, quantized.dequantize()), Some(quantized))
            }
        }
    }
}

/// A linear to check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) shape: (usize, usize, usize),
    pub(crate) stored: Stored,
    pub(crate) bias: bool,
    /// Rank and dropout.
    pub(crate) lora: Option<(usize, f32)>,
}

pub(crate) const fn nf4(blocksize: usize, double_quant: bool) -> Stored {
    Stored::Quantized { quant_type: QuantType::Nf4, blocksize, double_quant }
}

pub(crate) const fn fp4(blocksize: usize, double_quant: bool) -> Stored {
    Stored::Quantized { quant_type: QuantType::Fp4, blocksize, double_quant }
}

/// Operands of a case on the host.
pub(crate) struct Operands {
    pub(crate) x: Host,
    pub(crate) w: Host,
    pub(crate) quantized: Option<nf4::QuantizedTensor>,
    pub(crate) bias: Option<Host>,
    pub(crate) lora: Option<(Host, Host)>,
    pub(crate) case: Case,
}

/// Operands of a case on a backend.
pub(crate) struct Uploaded<K: Backend> {
    pub(crate) x: K::Buffer,
    w: K::Buffer,
    quantized: Option<K::QuantizedWeight>,
    bias: Option<K::Buffer>,
    lora: Option<(K::Buffer, K::Buffer)>,
    case: Case,
}

const SCALE: f32 = 1.5;

fn dropout(p: f32) -> Option<Dropout> {
    let dropout = Dropout { p, key: 7, stream: 9 };
    (p > 0.0).then_some(dropout)
}

impl Operands {
    pub(crate) fn new(case: Case, dtype: DType) -> Self {
        Self::numbered(0, case, dtype)
    }

    /// Others of each number, but for `x`.
    pub(crate) fn numbered(number: u64, case: Case, dtype: DType) -> Self {
        let (m, n, k) = case.shape;
        let seed = |operand| 10 * number + operand;
        let (w, quantized) = case.stored.weight_of(seed(2), n, k);
        let factors = |r| {
            let a = Host::normal(DType::F32, seed(4), r * k);
            (a, Host::normal(dtype, seed(5), n * r))
        };
        Self {
            x: Host::normal(dtype, 1, m * k),
            w,
            quantized,
            bias: case.bias.then(|| Host::normal(dtype, seed(3), n)),
            lora: case.lora.map(|(r, _)| factors(r)),
            case,
        }
    }

    pub(crate) fn upload<K: Backend>(&self, k: &K) -> Uploaded<K> {
        Uploaded {
            x: self.x.upload(k),
            w: self.w.upload(k),
            quantized: self.quantized.clone().map(|w| k.upload_quantized(w).unwrap()),
            bias: self.bias.as_ref().map(|bias| bias.upload(k)),
            lora: self.lora.as_ref().map(|(a, b)| (a.upload(k), b.upload(k))),
            case: self.case,
        }
    }

    fn inputs<'a, T>(&'a self, get: fn(&'a Host) -> &'a [T]) -> LinearInputs<'a, T> {
        let (m, n, k) = self.case.shape;
        let lora = self.case.lora.zip(self.lora.as_ref());
        LinearInputs {
            m,
            n,
            k,
            x: get(&self.x),
            w: get(&self.w),
            bias: self.bias.as_ref().map(get),
            lora: lora.map(|((r, p), (a, b))| LoraInputs {
                a: get(a),
                b: get(b),
                r,
                scale: SCALE,
                dropout: dropout(p),
            }),
        }
    }

    pub(crate) fn naive(&self) -> LinearInputs<'_, f32> {
        self.inputs(|x| &x.f32)
    }

    pub(crate) fn truth(&self) -> LinearInputs<'_, f64> {
        self.inputs(|x| &x.f64)
    }

    /// Gradients of the input and of both factors. Where `K` may round what passes from one product to the next, it is
    /// rounded.
    pub(crate) fn naive_backward<K: Backend>(&self, dy: &Host) -> [Vec<f32>; 3] {
        let between = if has_matrix_unit::<K>() { dy.dtype } else { DType::F32 };
        reference::linear_backward_rounding(&self.naive(), &dy.f32, |x| rounded(between, x))
    }
}

impl<K: Backend> Uploaded<K> {
    pub(crate) fn op(&self) -> Linear<'_, K> {
        let (m, n, k) = self.case.shape;
        let lora = self.case.lora.zip(self.lora.as_ref());
        Linear {
            m,
            n,
            k,
            weight: match &self.quantized {
                Some(weight) => Weight::Quantized(weight),
                None => Weight::Dense(&self.w),
            },
            bias: self.bias.as_ref(),
            lora: lora.map(|((r, p), (a, b))| Lora { a, b, r, scale: SCALE, dropout: dropout(p) }),
        }
    }

    /// Buffers for `y` and `xa`.
    pub(crate) fn outputs(&self, k: &K, dtype: DType) -> (K::Buffer, Option<K::Buffer>) {
        let (m, n, _) = self.case.shape;
        (output(k, dtype, m * n), self.case.lora.map(|(r, _)| output(k, DType::F32, m * r)))
    }

    /// `y` and `xa`.
    pub(crate) fn forward(&self, k: &K, dtype: DType) -> (K::Buffer, Option<K::Buffer>) {
        let (mut y, mut xa) = self.outputs(k, dtype);
        k.linear(&self.op(), &self.x, &mut y, xa.as_mut()).unwrap();
        (y, xa)
    }
}
