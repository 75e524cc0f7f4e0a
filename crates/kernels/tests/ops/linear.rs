use kernels::ops::LinearGrads;
use kernels::reference;
use kernels::{Backend, DType};
use nf4::BLOCKSIZES;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::operands::{Case, Operands, Stored, fp4, nf4};
use crate::support::{FLOATS, Host, assert_close_product, output};

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
