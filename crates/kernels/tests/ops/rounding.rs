//! What of a linear's operands and results is rounded, to what, and how often.

use std::iter;

use kernels::ops::LinearGrads;
use kernels::reference::{self, LinearInputs};
use kernels::{Backend, DType};
use nf4::{QuantConfig, QuantType};

use crate::arithmetic::{has_matrix_unit, in_integers};
use crate::operands::{Case, Operands, Stored, fp4, nf4};
use crate::support::{Host, assert_close, output, rounded};

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
