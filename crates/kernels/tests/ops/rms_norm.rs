use kernels::ops::RmsNorm;
use kernels::{Backend, DType, reference};

use crate::support::{FLOATS, Host, assert_close, output};

pub(crate) fn shapes() -> impl Iterator<Item = RmsNorm> {
    let shapes = [
        (0, 5),
        (1, 1),
        (1, 576),
        (3, 7),
        (17, 100),
        (19, 128),
        (9, 512),
        (3, 4_104),
        (2, 8_200),
        (3, 9_001),
        (130, 65),
    ];
    shapes.into_iter().map(|(rows, cols)| RmsNorm { rows, cols, eps: 1e-5 })
}

/// The weight is of the other operand's type.
fn operands(op: RmsNorm, dtype: DType, other: DType) -> (Host, Host) {
    let x = Host::normal(dtype, 1, op.rows * op.cols);
    (x, Host::normal(other, 2, op.cols))
}

pub(crate) fn check_rms_norm<K: Backend>(k: &K, dtype: DType) {
    for (op, y_dtype) in shapes().flat_map(|op| FLOATS.map(|y| (op, y))) {
        let (x, weight) = operands(op, dtype, y_dtype);
        let mut y = output(k, y_dtype, x.f32.len());
        let mut inv_rms = output(k, DType::F32, op.rows);
        k.rms_norm(op, &x.upload(k), &weight.upload(k), &mut y, &mut inv_rms).unwrap();
        let naive = reference::rms_norm(op, &x.f32, &weight.f32);
        let truth = reference::rms_norm(op, &x.f64, &weight.f64);
        assert_close(k, &format!("{y_dtype} y of {op:?}"), &y, &naive.0, &truth.0);
        assert_close(k, &format!("inv_rms of {op:?}"), &inv_rms, &naive.1, &truth.1);
    }
}

/// Bit for bit the sum and then its norm. `x` and the sum are of one type, as a residual stream is; what is added
/// and `y` may be of another.
pub(crate) fn check_add_rms_norm<K: Backend>(k: &K, dtype: DType) {
    for (op, other) in shapes().flat_map(|op| FLOATS.map(|other| (op, other))) {
        let (x, weight) = operands(op, dtype, other);
        let len = x.f32.len();
        let (x, weight) = (x.upload(k), weight.upload(k));
        let added = Host::normal(other, 5, len).upload(k);
        let outputs =
            || [(dtype, len), (other, len), (DType::F32, op.rows)].map(|(t, n)| output(k, t, n));
        let [mut sum, mut y, mut inv_rms] = outputs();
        k.add_rms_norm(op, &x, &added, &weight, &mut sum, &mut y, &mut inv_rms).unwrap();
        let found = [sum, y, inv_rms];
        let [mut sum, mut y, mut inv_rms] = outputs();
        k.add(&x, &added, &mut sum).unwrap();
        k.rms_norm(op, &sum, &weight, &mut y, &mut inv_rms).unwrap();
        let bits = |x: &K::Buffer| {
            k.download(x).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        for (what, (found, expected)) in
            ["sum", "y", "inv_rms"].into_iter().zip(found.iter().zip([&sum, &y, &inv_rms]))
        {
            assert!(bits(found) == bits(expected), "{what} of {op:?} with {other}");
        }
    }
}

pub(crate) fn check_rms_norm_backward<K: Backend>(k: &K, dtype: DType) {
    for (op, dy_dtype) in shapes().flat_map(|op| FLOATS.map(|dy| (op, dy))) {
        check_gradient(k, op, dtype, dy_dtype);
    }
}

/// `x` and `dx` are of one type, `dy` may be of another.
fn check_gradient<K: Backend>(k: &K, op: RmsNorm, dtype: DType, dy_dtype: DType) {
    let (x, weight) = operands(op, dtype, dy_dtype);
    let dy = Host::normal(dy_dtype, 3, x.f32.len());
    let (x_buffer, w_buffer, dy_buffer) = (x.upload(k), weight.upload(k), dy.upload(k));
    let mut y = output(k, dy_dtype, x.f32.len());
    let mut inv_rms = output(k, DType::F32, op.rows);
    k.rms_norm(op, &x_buffer, &w_buffer, &mut y, &mut inv_rms).unwrap();
    let naive = reference::rms_norm_backward(op, &x.f32, &weight.f32, &dy.f32);
    let truth = reference::rms_norm_backward(op, &x.f64, &weight.f64, &dy.f64);

    let what = format!("dx of {op:?} from {dy_dtype}");
    let mut dx = output(k, dtype, x.f32.len());
    k.rms_norm_backward(op, &x_buffer, &w_buffer, &inv_rms, &dy_buffer, &mut dx, false).unwrap();
    assert_close(k, &what, &dx, &naive, &truth);

    let before = Host::normal(dtype, 4, x.f32.len());
    let mut dx = before.upload(k);
    k.rms_norm_backward(op, &x_buffer, &w_buffer, &inv_rms, &dy_buffer, &mut dx, true).unwrap();
    let naive: Vec<f32> = naive.iter().zip(&before.f32).map(|(a, b)| a + b).collect();
    let truth: Vec<f64> = truth.iter().zip(&before.f64).map(|(a, b)| a + b).collect();
    assert_close(k, &format!("accumulated {what}"), &dx, &naive, &truth);
}
