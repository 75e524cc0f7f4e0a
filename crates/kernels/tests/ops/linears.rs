//! Linears of one input.

use std::any::TypeId;
use std::iter;

use kernels::ops::{LinearBackward, LinearInto};
use kernels::{Backend, Cpu, DType, Error, reference};

use crate::operands::{Case, Operands, Stored, Uploaded, fp4, nf4};
use crate::rounding::assert_rounded;
use crate::support::{Host, assert_close_product, rounded};

/// Rows, depth, and linears that read them.
type Group = ((usize, usize), &'static [(usize, Stored, bool, Option<(usize, f32)>)]);

/// Linears of one input that kernels do together or not: ragged; with and without bias and adapter; of few rows, of
/// many, of none; in two kinds of storage; all without dropout; in more tiles than 82 multiprocessors do at a time, the last of
/// which, of one linear and of two, are done as halves.
const GROUPS: [Group; 13] = {
    const NF4: Stored = nf4(64, true);
    const BF16: Stored = Stored::Dense(DType::Bf16);
    [
        (
            (130, 192),
            &[
                (200, NF4, true, Some((16, 0.1))),
                (72, nf4(128, false), false, None),
                (65, fp4(64, true), true, Some((3, 0.0))),
            ],
        ),
        ((63, 128), &[(264, NF4, false, Some((30, 0.2))), (136, NF4, true, None)]),
        (
            (200, 136),
            &[
                (72, BF16, true, None),
                (130, BF16, false, Some((8, 0.0))),
                (40, BF16, false, Some((33, 0.3))),
            ],
        ),
        ((40, 40), &[(65, BF16, false, None), (200, BF16, true, Some((4, 0.0)))]),
        ((520, 64), &[(1_270, NF4, false, None), (640, NF4, false, None), (200, NF4, true, None)]),
        (
            (520, 64),
            &[(1_280, BF16, true, None), (1_000, BF16, true, None), (256, BF16, true, None)],
        ),
        ((130, 128), &[(72, NF4, true, None), (72, BF16, true, None)]),
        ((5, 192), &[(70, NF4, true, Some((5, 0.0))), (33, NF4, false, None)]),
        ((0, 64), &[(70, NF4, false, None), (33, NF4, false, Some((2, 0.0)))]),
        (
            (530, 640),
            &[
                (704, NF4, false, Some((16, 0.0))),
                (96, NF4, true, Some((40, 0.0))),
                (64, NF4, false, None),
            ],
        ),
        ((2_341, 64), &[(96, NF4, false, Some((16, 0.0))), (64, NF4, false, Some((20, 0.0)))]),
        ((300, 192), &[(1_216, BF16, false, Some((1, 0.0))), (128, NF4, true, Some((16, 0.0)))]),
        (
            (70, 64),
            &[
                (1, NF4, true, None),
                (2, NF4, true, None),
                (3, NF4, true, None),
                (4, NF4, true, None),
            ],
        ),
    ]
};

/// The linears of each group.
fn groups() -> impl Iterator<Item = Vec<Case>> {
    GROUPS.into_iter().map(|((m, k), linears)| {
        let case = |&(n, stored, bias, lora)| Case { shape: (m, n, k), stored, bias, lora };
        linears.iter().map(case).collect()
    })
}

/// Bits of `y` and `xa`.
fn bits<K: Backend>(k: &K, (y, xa): &(K::Buffer, Option<K::Buffer>)) -> Vec<Vec<u32>> {
    let of = |buffer| k.download(buffer).unwrap().into_iter().map(f32::to_bits).collect();
    iter::once(y).chain(xa).map(of).collect()
}

/// The operands of linears of one input.
pub(crate) fn upload_group<K: Backend>(k: &K, cases: &[Case], dtype: DType) -> Vec<Uploaded<K>> {
    let upload = |(i, &case)| Operands::numbered(i, case, dtype).upload(k);
    (0..).zip(cases).map(upload).collect()
}

/// `y` and `xa` of each, by one operation.
pub(crate) fn forward_together<K: Backend>(
    k: &K,
    linears: &[Uploaded<K>],
    dtype: DType,
) -> Vec<(K::Buffer, Option<K::Buffer>)> {
    let mut outputs: Vec<_> = linears.iter().map(|linear| linear.outputs(k, dtype)).collect();
    let mut into: Vec<_> = linears
        .iter()
        .zip(&mut outputs)
        .map(|(linear, (y, xa))| LinearInto { op: linear.op(), y, xa: xa.as_mut() })
        .collect();
    k.linears(&linears[0].x, &mut into).unwrap();
    outputs
}

/// Linears of one input have the bits of one after the other.
pub(crate) fn check_linears<K: Backend>(k: &K, dtype: DType) {
    for cases in groups() {
        let linears = upload_group(k, &cases, dtype);
        let together = forward_together(k, &linears, dtype);
        for ((linear, together), case) in linears.iter().zip(&together).zip(cases) {
            let alone = linear.forward(k, dtype);
            assert!(bits(k, together) == bits(k, &alone), "{case:?} of {} linears", linears.len());
        }
    }
}

/// Of linears of one input each reads all of it, in the same rows.
pub(crate) fn check_inputs_that_differ<K: Backend>(k: &K, dtype: DType) {
    let case = |m, k| Case {
        shape: (m, 5, k),
        stored: Stored::Dense(DType::F32),
        bias: false,
        lora: None,
    };
    let linears = upload_group(k, &[case(2, 6), case(3, 4)], dtype);
    let mut outputs: Vec<_> = linears.iter().map(|linear| linear.outputs(k, dtype).0).collect();
    let dys: Vec<_> = [10, 15].map(|len| Host::normal(dtype, 6, len).upload(k)).into();
    let into = linears.iter().zip(&mut outputs);
    let mut into: Vec<_> =
        into.map(|(linear, y)| LinearInto { op: linear.op(), y, xa: None }).collect();
    let back = linears.iter().zip(&dys).map(|(linear, dy)| {
        let op = linear.op();
        LinearBackward { op, xa: None, dy, da: None, db: None }
    });
    let x = &linears[0].x;
    for result in
        [k.linears(x, &mut into), k.linears_backward(x, &mut back.collect::<Vec<_>>(), None, false)]
    {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Parameter { .. }), "{error}");
        assert!(error.to_string().contains("3 x 4 beside others of 2 x 6"), "{error}");
    }
}

/// Gradients to be added to: of the input, and of A and B where there is an adapter.
struct Before {
    dx: Host,
    factors: Vec<Option<[Host; 2]>>,
}

impl Before {
    fn new(cases: &[Case], dtype: DType) -> Self {
        let (m, _, k) = cases[0].shape;
        let factors = |case: &Case| {
            let (r, _) = case.lora?;
            Some([r * k, case.shape.1 * r].map(|len| Host::normal(DType::F32, 8, len)))
        };
        let factors = cases.iter().map(factors).collect();
        Self { dx: Host::normal(dtype, 9, m * k), factors }
    }
}

/// Which gradients are asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    dx: bool,
    accumulate_dx: bool,
    /// Of A and B.
    factors: [bool; 2],
}

/// `dx`, and of each linear the gradients of A and B.
type Gradients<K> = (<K as Backend>::Buffer, Vec<Option<[<K as Backend>::Buffer; 2]>>);

/// By one operation.
fn backward<K: Backend>(
    k: &K,
    linears: &[Uploaded<K>],
    (dys, before): (&[Host], &Before),
    dtype: DType,
    wanted: Wanted,
) -> Gradients<K> {
    let mut dx = before.dx.upload(k);
    let factors = before.factors.iter();
    let mut factors: Vec<_> = factors
        .map(|both| both.as_ref().map(|both| both.each_ref().map(|x| x.upload(k))))
        .collect();
    // Every second `xa` is made again.
    let xas = linears
        .iter()
        .enumerate()
        .map(|(i, linear)| linear.forward(k, dtype).1.filter(|_| i % 2 == 0));
    let xas: Vec<_> = xas.collect();
    let dys: Vec<_> = dys.iter().map(|dy| dy.upload(k)).collect();
    let operands = linears.iter().zip(&xas).zip(&dys).zip(&mut factors);
    let mut of_each: Vec<_> = operands
        .map(|(((linear, xa), dy), factors)| {
            let [da, db] = match factors {
                Some([da, db]) => [Some(da), Some(db)],
                None => [None, None],
            };
            let [da, db] = [(da, wanted.factors[0]), (db, wanted.factors[1])]
                .map(|(x, wanted)| x.filter(|_| wanted));
            LinearBackward { op: linear.op(), xa: xa.as_ref(), dy, da, db }
        })
        .collect();
    let dx_buffer = wanted.dx.then_some(&mut dx);
    let x = &linears[0].x;
    k.linears_backward(x, &mut of_each, dx_buffer, wanted.accumulate_dx).unwrap();
    drop(of_each);
    (dx, factors)
}

/// On a processor the gradient of the input is rounded when all linears have added to it, not after each.
pub(crate) fn check_linears_backward_rounds_once<K: Backend>(k: &K, dtype: DType) {
    if TypeId::of::<K>() != TypeId::of::<Cpu>() {
        return;
    }
    let shape @ (m, n, depth) = (40, 64, 64);
    let case = Case { shape, stored: Stored::Dense(DType::Bf16), bias: false, lora: None };
    let operands = [0, 1, 2].map(|i| Operands::numbered(i, case, dtype));
    let dys = [20, 21, 22].map(|seed| Host::normal(dtype, seed, m * n));
    let before = Before { dx: Host::normal(DType::Bf16, 9, m * depth), factors: vec![None; 3] };
    let linears: Vec<_> = operands.iter().map(|operands| operands.upload(k)).collect();
    let wanted = Wanted { dx: true, accumulate_dx: false, factors: [false; 2] };
    let (dx, _) = backward(k, &linears, (&dys, &before), dtype, wanted);
    let mut truth = vec![0.0; m * depth];
    for (operands, dy) in operands.iter().zip(&dys) {
        let [dx, ..] = reference::linear_backward(&operands.truth(), &dy.f64);
        truth.iter_mut().zip(dx).for_each(|(sum, dx)| *sum += dx);
    }
    // Rounded after each it would be 0.64. Integers move some sums past the middle of two numbers.
    assert_rounded(k, "dx", &dx, &truth, 0.85);
}

/// The sum over all linears, each rounded on the way for the naive one.
pub(crate) fn check_linears_backward<K: Backend>(k: &K, dtype: DType) {
    for cases in groups() {
        let operands = (0..).zip(&cases).map(|(i, &case)| Operands::numbered(i, case, dtype));
        let operands: Vec<Operands> = operands.collect();
        let linears: Vec<_> = operands.iter().map(|operands| operands.upload(k)).collect();
        let (m, ..) = cases[0].shape;
        let dys =
            (20..).zip(&cases).map(|(seed, case)| Host::normal(dtype, seed, m * case.shape.1));
        let dys: Vec<Host> = dys.collect();
        let before = Before::new(&cases, dtype);
        let each = operands.iter().zip(&dys);
        let naive: Vec<_> =
            each.clone().map(|(operands, dy)| operands.naive_backward::<K>(dy)).collect();
        let truth: Vec<_> =
            each.map(|(x, dy)| reference::linear_backward(&x.truth(), &dy.f64)).collect();
        for wanted in [
            Wanted { dx: true, accumulate_dx: false, factors: [true; 2] },
            Wanted { dx: true, accumulate_dx: true, factors: [true, false] },
            Wanted { dx: false, accumulate_dx: false, factors: [false, true] },
        ] {
            let what = |of| format!("{of} of {cases:?}, {wanted:?}");
            let got = backward(k, &linears, (&dys, &before), dtype, wanted);
            let accumulate = |i: usize| f32::from(u8::from(wanted.accumulate_dx || i > 0));
            let mut sum = before.dx.f32.clone();
            let mut exact = before.dx.f64.clone();
            for (i, (naive, truth)) in naive.iter().zip(&truth).enumerate().filter(|_| wanted.dx) {
                let add = sum.iter().zip(&naive[0]).map(|(a, b)| a * accumulate(i) + b);
                sum = rounded(dtype, add.collect());
                let add = exact.iter().zip(&truth[0]);
                exact = add.map(|(a, b)| a * f64::from(accumulate(i)) + b).collect();
            }
            let outputs = cases.iter().map(|case| case.shape.1).sum();
            assert_close_product(k, (dtype, outputs), &what("dx"), &got.0, &sum, &exact);
            for (i, before) in before.factors.iter().enumerate() {
                let Some((before, got)) = before.as_ref().zip(got.1[i].as_ref()) else { continue };
                for (j, of) in ["da", "db"].into_iter().enumerate() {
                    let added = f32::from(u8::from(wanted.factors[j]));
                    let add = before[j].f32.iter().zip(&naive[i][j + 1]);
                    let naive: Vec<f32> = add.map(|(a, b)| a + added * b).collect();
                    let add = before[j].f64.iter().zip(&truth[i][j + 1]);
                    let truth: Vec<f64> = add.map(|(a, b)| a + f64::from(added) * b).collect();
                    assert_close_product(k, (dtype, m), &what(of), &got[j], &naive, &truth);
                }
            }
        }
    }
}

/// Bits of all results of a group in which linears are multiplied together.
pub(crate) fn results<K: Backend>(k: &K, dtype: DType) -> Vec<(&'static str, Vec<u32>)> {
    let alike = |cases: &Vec<Case>| cases.iter().all(no_dropout);
    let adapted = |cases: &Vec<Case>| cases.iter().any(|case| case.lora.is_some());
    let cases = groups().find(|cases| cases.len() == 3 && alike(cases) && adapted(cases)).unwrap();
    let linears = upload_group(k, &cases, dtype);
    let dys = cases.iter().map(|case| Host::normal(dtype, 6, case.shape.0 * case.shape.1));
    let dys: Vec<Host> = dys.collect();
    let before = Before::new(&cases, dtype);
    let wanted = Wanted { dx: true, accumulate_dx: true, factors: [true; 2] };
    let (dx, factors) = backward(k, &linears, (&dys, &before), dtype, wanted);
    let of = |x: &K::Buffer| k.download(x).unwrap().into_iter().map(f32::to_bits).collect();
    let factors = factors.iter().flatten().flatten().map(|x| ("a factor", of(x)));
    let together = forward_together(k, &linears, dtype);
    let forward = together.iter().flat_map(|linear| bits(k, linear)).map(|x| ("y or xa", x));
    iter::once(("dx", of(&dx))).chain(factors).chain(forward).collect()
}

fn no_dropout(case: &Case) -> bool {
    case.lora.is_none_or(|(_, p)| p == 0.0)
}
