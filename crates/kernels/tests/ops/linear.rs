use std::any::TypeId;
use std::iter;

use kernels::ops::{Dropout, Linear, LinearGrads, Lora, Weight};
use kernels::reference::{self, LinearInputs, LoraInputs};
use kernels::{Backend, Cpu, CpuLevel, DType};
use nf4::{BLOCKSIZES, QuantConfig, QuantType};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::{FLOATS, Host, assert_close, assert_close_product, output, rounded};

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

const SHAPES: [(usize, usize, usize); 8] = [
    (0, 5, 7),
    (1, 1, 1),
    (1, 65, 129),
    (3, 17, 33),
    (5, 200, 64),
    (17, 31, 100),
    (300, 70, 45),
    (33, 421, 257),
];

pub(crate) const fn nf4(blocksize: usize, double_quant: bool) -> Stored {
    Stored::Quantized { quant_type: QuantType::Nf4, blocksize, double_quant }
}

pub(crate) const fn fp4(blocksize: usize, double_quant: bool) -> Stored {
    Stored::Quantized { quant_type: QuantType::Fp4, blocksize, double_quant }
}

fn cases() -> impl Iterator<Item = Case> {
    let stored = [
        (Stored::Dense(DType::F32), false, None),
        (Stored::Dense(DType::F32), true, Some((4, 0.0))),
        (Stored::Dense(DType::Bf16), true, Some((3, 0.3))),
        (nf4(64, true), false, None),
        (nf4(64, true), true, Some((8, 0.1))),
        (nf4(128, false), false, Some((1, 0.0))),
        (fp4(32, true), false, Some((2, 0.0))),
    ];
    SHAPES.into_iter().flat_map(move |shape| {
        stored.map(|(stored, bias, lora)| Case { shape, stored, bias, lora })
    })
}

/// Whole and ragged tiles of bf16 weights, and of 4-bit weights whose rows are made of whole blocks,
/// or of runs of 64; the last two fill a card of 82 multiprocessors more than once.
fn tiled_cases() -> impl Iterator<Item = Case> {
    [
        ((1, 65, 64), nf4(64, true), false, None),
        ((1, 200, 576), nf4(64, true), true, Some((16, 0.0))),
        ((63, 129, 128), nf4(64, false), true, Some((8, 0.0))),
        ((63, 136, 192), fp4(64, true), false, Some((8, 0.2))),
        ((64, 128, 128), nf4(128, true), true, Some((24, 0.0))),
        ((65, 72, 192), nf4(4096, true), true, Some((1, 0.1))),
        ((130, 65, 192), nf4(128, false), false, Some((8, 0.1))),
        ((130, 200, 128), nf4(64, true), true, Some((16, 0.1))),
        ((130, 264, 576), nf4(64, true), false, Some((16, 0.0))),
        ((65, 72, 192), nf4(64, true), false, Some((70, 0.1))),
        ((1, 65, 40), Stored::Dense(DType::Bf16), false, None),
        ((63, 136, 192), Stored::Dense(DType::Bf16), true, Some((8, 0.2))),
        ((130, 72, 136), Stored::Dense(DType::Bf16), true, Some((33, 0.1))),
        ((130, 65, 200), Stored::Dense(DType::Bf16), true, Some((17, 0.0))),
        ((200, 264, 128), Stored::Dense(DType::Bf16), false, Some((64, 0.0))),
        ((520, 2440, 64), nf4(64, true), true, None),
        ((520, 72, 2496), Stored::Dense(DType::Bf16), false, None),
    ]
    .into_iter()
    .map(|(shape, stored, bias, lora)| Case { shape, stored, bias, lora })
}

/// Up to nine rows, of which eight are the most that the kernels of few rows take: every stored format,
/// outputs and depths at the ends of blocks and of warps' steps, odd ranks, dropout.
fn few_rows_cases() -> impl Iterator<Item = Case> {
    let shapes = [(1, 64), (17, 192), (70, 576), (515, 136), (33, 2112), (16, 40)];
    let stored = [
        (Stored::Dense(DType::F32), false, None),
        (Stored::Dense(DType::F32), true, Some((3, 0.0))),
        (Stored::Dense(DType::Bf16), true, Some((33, 0.0))),
        (nf4(64, true), true, Some((5, 0.0))),
        (nf4(64, false), false, Some((16, 0.0))),
        (nf4(128, true), false, None),
        (fp4(4096, false), true, Some((65, 0.0))),
        (fp4(32, true), true, Some((1, 0.0))),
        (nf4(64, true), true, Some((7, 0.2))),
    ];
    // More outputs than a device has multiprocessors, in blocks of 32.
    let wide = ((4300, 192), (nf4(64, true), true, Some((3, 0.0))));
    let cases = shapes.into_iter().flat_map(move |shape| stored.map(|stored| (shape, stored)));
    cases.chain([wide]).enumerate().map(|(i, ((n, k), (stored, bias, lora)))| Case {
        // Another number of rows for each format of each shape.
        shape: ((i + i / 9) % 9 + 1, n, k),
        stored,
        bias,
        lora,
    })
}

/// Operands of a case on the host.
pub(crate) struct Operands {
    pub(crate) x: Host,
    pub(crate) w: Host,
    quantized: Option<nf4::QuantizedTensor>,
    bias: Option<Host>,
    lora: Option<(Host, Host)>,
    case: Case,
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

/// The level of the processor, where that is what `K` is.
fn level<K: Backend>() -> Option<CpuLevel> {
    (TypeId::of::<K>() == TypeId::of::<Cpu>()).then(|| CpuLevel::of_process().unwrap())
}

/// Whether `K` is a processor with a matrix unit: there `xa` and `dY . B` may be rounded to the type of `dY`.
fn has_matrix_unit<K: Backend>() -> bool {
    level::<K>() == Some(CpuLevel::Amx)
}

#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    std::arch::is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_vnni() -> bool {
    false
}

/// Whether that many rows may be multiplied in integers, in which [`in_parts`] counts.
pub(crate) fn in_integers<K: Backend>(dtype: DType, rows: usize) -> bool {
    dtype == DType::Bf16
        && match level::<K>() {
            Some(CpuLevel::Amx) => rows <= 4,
            Some(CpuLevel::Avx2) => true,
            Some(CpuLevel::Avx512) => rows > 4 && has_vnni(),
            _ => false,
        }
}

/// Rows of `width` elements, each 64 of which are rounded to so many parts of their largest.
pub(crate) fn in_parts(x: &[f32], width: usize, parts: f32) -> Vec<f32> {
    let round = |run: &[f32]| -> Vec<f32> {
        let part = run.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / parts;
        run.iter()
            .map(|x| if part > 0.0 { (x / part).round_ties_even() * part } else { *x })
            .collect()
    };
    x.chunks(width.max(1)).flat_map(|row| row.chunks(64).flat_map(round)).collect()
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

/// Any small shape, mostly ragged.
fn ragged() -> impl Strategy<Value = Case> {
    let stored = prop_oneof![
        select(FLOATS.to_vec()).prop_map(Stored::Dense),
        (select(BLOCKSIZES.to_vec()), any::<bool>()).prop_map(|(size, double)| nf4(size, double)),
    ];
    let lora = option::of((1..12_usize, select(vec![0.0, 0.25_f32])));
    ((0..40_usize, 1..90_usize, 1..90_usize), stored, any::<bool>(), lora)
        .prop_map(|(shape, stored, bias, lora)| Case { shape, stored, bias, lora })
}

pub(crate) fn check_linear<K: Backend>(k: &K, dtype: DType) {
    cases().for_each(|case| check_forward(k, case, dtype));
}

pub(crate) fn check_tiled_linear<K: Backend>(k: &K, dtype: DType) {
    tiled_cases().for_each(|case| check_case(k, case, dtype));
}

/// Forward and backward of one case.
pub(crate) fn check_case<K: Backend>(k: &K, case: Case, dtype: DType) {
    check_forward(k, case, dtype);
    check_backward(k, case, dtype);
}

pub(crate) fn check_linear_of_few_rows<K: Backend>(k: &K, dtype: DType) {
    few_rows_cases().for_each(|case| check_forward(k, case, dtype));
}

/// A weight is rounded alike for few rows and for many, so that a sum of two weights is the same to the bit; integers are
/// near to it.
pub(crate) fn check_few_rows_round_alike<K: Backend>(k: &K, dtype: DType) {
    const AT: [usize; 2] = [0, 100];
    let (n, depth, stored) = (40, 192, nf4(64, true));
    let case = |m| Case { shape: (m, n, depth), stored, bias: false, lora: None };
    let difference = |m: usize| {
        let of = |i| [1.0, -1.0, 0.0][AT.iter().position(|&at| i % depth == at).unwrap_or(2)];
        let x = Host::new(dtype, (0..m * depth).map(of).collect()).upload(k);
        let mut y = output(k, dtype, m * n);
        k.linear(&Operands::new(case(m), dtype).upload(k).op(), &x, &mut y, None).unwrap();
        k.download(&y).unwrap()
    };
    let rows = || (1..=9).chain([100]).rev();
    let alike = rows().find(|&m| !in_integers::<K>(dtype, m)).map(difference);
    let w = Operands::new(case(1), dtype).w.f32;
    let largest = w.iter().fold(0.0, |a: f32, x| a.max(x.abs()));
    for m in rows() {
        let y = difference(m);
        if !in_integers::<K>(dtype, m) {
            assert!(y == alike.as_ref().expect("these, or more")[..m * n], "{m} rows");
            continue;
        }
        for (i, y) in y.iter().enumerate() {
            let of = |at: usize| w[i % n * depth + at];
            let truth = of(AT[0]) - of(AT[1]);
            let error = (y - truth).abs();
            assert!(
                error <= largest / 4096.0 + truth.abs() / 256.0,
                "{m} rows: {error} of {truth}"
            );
        }
    }
}

/// An identity reads the weight back, rounded to bf16 and by integers to a part of the largest, but for that exact.
pub(crate) fn check_linear_of_identity<K: Backend>(k: &K, dtype: DType) {
    let stored = [nf4(64, true), nf4(64, false), fp4(128, true), fp4(512, false)];
    for ((n, depth), stored) in
        stored.into_iter().flat_map(|stored| [((72, 64), stored), ((136, 192), stored)])
    {
        let identity = |len: usize| {
            let one = |i| if i / len == i % len { 1.0 } else { 0.0 };
            Host::new(dtype, (0..len * len).map(one).collect()).upload(k)
        };
        let shape = |m| Case { shape: (m, n, depth), stored, bias: false, lora: None };
        let operands = Operands::new(shape(depth), dtype);
        let w = rounded(DType::Bf16, operands.w.f32.clone());

        let forward = operands.upload(k);
        let mut y = output(k, DType::Bf16, depth * n);
        k.linear(&forward.op(), &identity(depth), &mut y, None).unwrap();
        let y = k.download(&y).unwrap();
        let transposed: Vec<f32> = (0..depth * n).map(|i| w[i % n * depth + i / n]).collect();
        let largest = w.iter().fold(0.0, |most: f32, w| most.max(w.abs()));
        let read_back = |read: &[f32], w: &[f32], rows: usize| {
            let near = |(read, w): (&f32, &f32)| {
                // Half a part may make the rounding to bf16 another one.
                (read - w).abs() <= largest / 16128.0 + w.abs() / 128.0
            };
            read == w || in_integers::<K>(dtype, rows) && read.iter().zip(w).all(near)
        };
        assert!(read_back(&y, &transposed, depth), "y, {n} x {depth} {stored:?}");

        let backward = Operands::new(shape(n), dtype).upload(k);
        let mut dx = output(k, DType::Bf16, n * depth);
        let grads = LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: None, db: None };
        k.linear_backward(&backward.op(), &backward.x, None, &identity(n), grads).unwrap();
        let dx = k.download(&dx).unwrap();
        assert!(read_back(&dx, &w, n), "dx, {n} x {depth} {stored:?}");
    }
}

pub(crate) fn check_ragged_linear<K: Backend>(k: &K, dtype: DType) {
    proptest!(|(case in ragged())| {
        check_forward(k, case, dtype);
        check_backward(k, case, dtype);
    });
}

fn check_forward<K: Backend>(k: &K, case: Case, dtype: DType) {
    check_forward_of(k, &Operands::new(case, dtype), dtype);
}

pub(crate) fn check_forward_of<K: Backend>(k: &K, operands: &Operands, dtype: DType) {
    let case @ Case { shape: (_, _, depth), .. } = operands.case;
    let (naive, truth) =
        (reference::linear(&operands.naive()), reference::linear(&operands.truth()));
    for y_dtype in FLOATS {
        let (y, xa) = operands.upload(k).forward(k, y_dtype);
        assert_close_product(
            k,
            (dtype, depth),
            &format!("{y_dtype} y of {case:?}"),
            &y,
            &naive.0,
            &truth.0,
        );
        if let Some(xa) = xa {
            assert_close_product(
                k,
                (dtype, depth),
                &format!("xa of {case:?}"),
                &xa,
                &naive.1,
                &truth.1,
            );
        }
    }
}

/// What an adapter adds has the precision of its f32 factors, also where the weight is rounded to bf16:
/// of a weight of zeros, the results are the adapter's alone.
pub(crate) fn check_adapter_precision<K: Backend>(k: &K, dtype: DType) {
    let shape @ (m, n, depth) = (70, 72, 64);
    let stored = nf4(64, false);
    let case = Case { shape, stored, bias: false, lora: Some((16, 0.0)) };
    let zeros = vec![0.0; n * depth];
    let config = QuantConfig::new(QuantType::Nf4, 64, false).unwrap();
    let quantized = nf4::quantize("w", &zeros, &[n, depth], &config).unwrap();
    let operands = Operands {
        w: Host::new(DType::F32, zeros),
        quantized: Some(quantized),
        lora: Some((Host::normal(DType::F32, 4, 16 * depth), Host::normal(DType::F32, 5, n * 16))),
        ..Operands::new(case, dtype)
    };
    let (uploaded, dy) = (operands.upload(k), Host::normal(dtype, 6, m * n));

    let (y, xa) = uploaded.forward(k, DType::Bf16);
    let (truth, _) = reference::linear(&operands.truth());
    assert_rounded(k, "y", &y, &truth, 0.98);

    let mut dx = output(k, DType::Bf16, m * depth);
    let grads = LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: None, db: None };
    k.linear_backward(&uploaded.op(), &uploaded.x, xa.as_ref(), &dy.upload(k), grads).unwrap();
    let [truth, ..] = reference::linear_backward(&operands.truth(), &dy.f64);
    if has_matrix_unit::<K>() && dtype == DType::Bf16 {
        assert_close(k, "dx", &dx, &operands.naive_backward::<K>(&dy)[0], &truth);
    } else {
        assert_rounded(k, "dx", &dx, &truth, 0.98);
    }
}

/// At least a share of the elements are the truth rounded to bf16.
#[track_caller]
pub(crate) fn assert_rounded<K: Backend>(
    k: &K,
    what: &str,
    got: &K::Buffer,
    truth: &[f64],
    least: f64,
) {
    let right = rounded(DType::Bf16, truth.iter().map(|&x| x as f32).collect());
    let same = k.download(got).unwrap().iter().zip(&right).filter(|(x, y)| x == y).count();
    let share = same as f64 / right.len() as f64;
    assert!(share >= least, "{what}: {share} of the elements are the rounded truth");
}

/// Standard normal values around `mean`.
fn around(dtype: DType, seed: u64, len: usize, mean: f32, deviation: f32) -> Host {
    let normal = Host::normal(DType::F32, seed, len).f32.into_iter();
    Host::new(dtype, normal.map(|x| mean + deviation * x).collect())
}

/// Operands whose base output and base input gradient (of a `dy` around 1) are about 1.5, where
/// half a unit of bf16 is 2^-8, while bias and adapter add less than that. A quantised weight is one
/// number a block, which bf16 holds, so that it is the same in every precision.
fn small_delta(dtype: DType, stored: Stored) -> (Operands, Host) {
    let (m, size, r) = (40, 64, 4);
    let case = Case { shape: (m, size, size), stored, bias: true, lora: Some((r, 0.0)) };
    let around_one = |dtype, len| around(dtype, 2, len, 1.5, 0.1).f32.into_iter();
    let (w, quantized) = match stored {
        Stored::Dense(dtype) => {
            let w = around_one(DType::F32, size * size).map(|w| w / size as f32);
            (Host::new(dtype, w.collect()), None)
        }
        Stored::Quantized { quant_type, blocksize, double_quant } => {
            let blocks = around_one(DType::Bf16, size * size / blocksize);
            let w: Vec<_> =
                blocks.flat_map(|w| iter::repeat_n(w / size as f32, blocksize)).collect();
            let config = QuantConfig::new(quant_type, blocksize, double_quant).unwrap();
            let quantized = nf4::quantize("w", &w, &[size, size], &config).unwrap();
            assert!(quantized.dequantize::<f32>() == w, "the weight is exact");
            (Host::new(DType::F32, w), Some(quantized))
        }
    };
    let operands = Operands {
        x: around(dtype, 1, m * size, 1.0, 0.05),
        w,
        quantized,
        bias: Some(around(DType::F32, 3, size, 0.0, 2e-4)),
        lora: Some((
            Host::normal(DType::F32, 4, r * size),
            around(DType::F32, 5, size * r, 0.0, 3.5e-5),
        )),
        case,
    };
    (operands, around(dtype, 6, m * size, 1.0, 0.05))
}

/// A sum that is rounded once differs from the rounded base output although nothing of what is
/// added reaches half a unit of it.
pub(crate) fn check_linear_rounds_once<K: Backend>(k: &K, dtype: DType) {
    for stored in [Stored::Dense(DType::F32), nf4(64, false)] {
        check_rounds_once(k, dtype, stored);
    }
}

fn check_rounds_once<K: Backend>(k: &K, dtype: DType, stored: Stored) {
    let (operands, dy) = small_delta(dtype, stored);
    let base = LinearInputs { bias: None, lora: None, ..operands.truth() };
    let uploaded = operands.upload(k);

    let (y, xa) = uploaded.forward(k, DType::Bf16);
    let (truth, _) = reference::linear(&operands.truth());
    assert_rounded_once(k, "y", &y, &truth, &reference::linear(&base).0);

    let mut dx = output(k, DType::Bf16, operands.x.f32.len());
    let grads = LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: None, db: None };
    k.linear_backward(&uploaded.op(), &uploaded.x, xa.as_ref(), &dy.upload(k), grads).unwrap();
    let [truth, ..] = reference::linear_backward(&operands.truth(), &dy.f64);
    let [base, ..] = reference::linear_backward(&base, &dy.f64);
    assert_rounded_once(k, "dx", &dx, &truth, &base);
}

#[track_caller]
fn assert_rounded_once<K: Backend>(
    k: &K,
    what: &str,
    got: &K::Buffer,
    truth: &[f64],
    base: &[f64],
) {
    let added = truth.iter().zip(base).map(|(truth, base)| (truth - base).abs());
    assert!(added.fold(0.0, f64::max) < 1.0 / 256.0, "{what}: more than half a unit is added");
    let rounded = |x: &[f64]| rounded(DType::Bf16, x.iter().map(|&x| x as f32).collect());
    let share = |x: &[f32], y: &[f32]| {
        x.iter().zip(y).filter(|(x, y)| x == y).count() as f64 / x.len() as f64
    };
    let (right, base) = (rounded(truth), rounded(base));
    assert!(share(&right, &base) < 0.95, "{what}: the base alone would do");
    let share = share(&k.download(got).unwrap(), &right);
    assert!(share >= 0.99, "{what}: {share} of the elements are the rounded sum");
}

pub(crate) fn check_linear_backward<K: Backend>(k: &K, dtype: DType) {
    cases().for_each(|case| check_backward(k, case, dtype));
}

fn check_backward<K: Backend>(k: &K, case: Case, dtype: DType) {
    let (m, n, depth) = case.shape;
    let operands = Operands::new(case, dtype);
    let uploaded = operands.upload(k);
    let dy = Host::normal(dtype, 6, m * n);
    let (_, xa) = uploaded.forward(k, dtype);
    let mut dx = output(k, dtype, m * depth);
    let zeros = |len| Host::new(DType::F32, vec![0.0; len]).upload(k);
    let mut da = case.lora.map(|(r, _)| zeros(r * depth));
    let mut db = case.lora.map(|(r, _)| zeros(n * r));
    let grads =
        LinearGrads { dx: Some(&mut dx), accumulate_dx: false, da: da.as_mut(), db: db.as_mut() };
    k.linear_backward(&uploaded.op(), &uploaded.x, xa.as_ref(), &dy.upload(k), grads).unwrap();
    let naive = operands.naive_backward::<K>(&dy);
    let truth = reference::linear_backward(&operands.truth(), &dy.f64);
    assert_close_product(k, (dtype, n), &format!("dx of {case:?}"), &dx, &naive[0], &truth[0]);
    if let (Some(da), Some(db)) = (&da, &db) {
        assert_close_product(k, (dtype, m), &format!("da of {case:?}"), da, &naive[1], &truth[1]);
        assert_close_product(k, (dtype, m), &format!("db of {case:?}"), db, &naive[2], &truth[2]);
    }
}

/// Gradients are added to what is there; those not asked for are not needed.
pub(crate) fn check_linear_accumulates<K: Backend>(k: &K, dtype: DType) {
    for (shape, dx) in [((37, 70, 45), DType::F32), ((37, 72, 128), dtype), ((130, 72, 64), dtype)]
    {
        let case = Case { shape, stored: nf4(64, true), bias: false, lora: Some((5, 0.2)) };
        check_accumulates(k, case, dtype, dx);
    }
}

fn check_accumulates<K: Backend>(k: &K, case: Case, dtype: DType, dx_dtype: DType) {
    let (m, n, depth) = case.shape;
    let (r, _) = case.lora.unwrap();
    let operands = Operands::new(case, dtype);
    let uploaded = operands.upload(k);
    let dy = Host::normal(dtype, 6, m * n);
    let (_, xa) = uploaded.forward(k, dtype);
    let before = [(dx_dtype, m * depth), (DType::F32, r * depth), (DType::F32, n * r)];
    let before = before.map(|(dtype, len)| Host::normal(dtype, 8, len));
    let [mut dx, mut da, mut db] = before.each_ref().map(|x| x.upload(k));
    let (op, dy_buffer) = (uploaded.op(), dy.upload(k));
    let none = || LinearGrads { dx: None, accumulate_dx: true, da: None, db: None };
    let run = |xa: Option<&_>, grads: LinearGrads<'_, K>| {
        k.linear_backward(&op, &uploaded.x, xa, &dy_buffer, grads).unwrap();
    };
    run(None, LinearGrads { dx: Some(&mut dx), ..none() });
    run(None, LinearGrads { da: Some(&mut da), ..none() });
    run(xa.as_ref(), LinearGrads { db: Some(&mut db), ..none() });
    let mut again = before[2].upload(k);
    run(None, LinearGrads { db: Some(&mut again), ..none() });
    let [db_values, again] = [&db, &again].map(|x| k.download(x).unwrap());
    assert_eq!(db_values, again, "xa computed again");
    run(None, none());
    let naive = operands.naive_backward::<K>(&dy);
    let truth = reference::linear_backward(&operands.truth(), &dy.f64);
    for (i, (what, got)) in [("dx", &dx), ("da", &da), ("db", &db)].into_iter().enumerate() {
        let naive: Vec<f32> = naive[i].iter().zip(&before[i].f32).map(|(a, b)| a + b).collect();
        let truth: Vec<f64> = truth[i].iter().zip(&before[i].f64).map(|(a, b)| a + b).collect();
        assert_close_product(k, (dtype, if i == 0 { n } else { m }), what, got, &naive, &truth);
    }
}
