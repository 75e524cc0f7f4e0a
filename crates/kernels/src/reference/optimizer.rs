use nf4::moment8::{self, MomentMap};
use num_traits::Float;

use super::constant;
use crate::ops::AdamW;

/// One step on a single element: `(param, m, v)` after it.
pub fn adamw<T: Float>(op: AdamW, param: T, grad: T, m: T, v: T) -> (T, T, T) {
    let [lr, beta1, beta2, eps, decay] =
        [op.lr, op.beta1, op.beta2, op.eps, op.weight_decay].map(constant::<T>);
    let one = T::one();
    let step = i32::try_from(op.step).expect("fewer than 2^31 steps");
    let grad = grad * constant(op.grad_scale);
    let param = param * (one - lr * decay);
    let m = beta1 * m + (one - beta1) * grad;
    let v = beta2 * v + (one - beta2) * grad * grad;
    let m_hat = m / (one - beta1.powi(step));
    let v_hat = v / (one - beta2.powi(step));
    (param - lr * m_hat / (v_hat.sqrt() + eps), m, v)
}

/// A moment of one block: at most 256 codes and their absmax.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment8<T> {
    /// Codes.
    pub codes: Vec<u8>,
    /// What 1 is in the map.
    pub absmax: T,
}

/// One step on a block with 8-bit moments.
pub fn adamw_8bit<T: Float>(
    op: AdamW,
    param: &mut [T],
    grad: &[T],
    first: &mut Moment8<T>,
    second: &mut Moment8<T>,
) {
    let mut m = first.restore(moment8::first());
    let mut v = second.restore(moment8::second());
    for i in 0..param.len() {
        (param[i], m[i], v[i]) = if grad[i].is_finite() {
            adamw(op, param[i], grad[i], m[i], v[i])
        } else {
            (param[i], T::zero(), T::zero())
        };
    }
    *first = Moment8::quantize(moment8::first(), &m);
    *second = Moment8::quantize(moment8::second(), &v);
}

impl<T: Float> Moment8<T> {
    /// The values that the codes stand for.
    pub fn restore(&self, map: &MomentMap) -> Vec<T> {
        let value = |code: &u8| constant::<T>(map.values()[usize::from(*code)]) * self.absmax;
        self.codes.iter().map(value).collect()
    }

    fn quantize(map: &MomentMap, values: &[T]) -> Self {
        let absmax = values.iter().fold(constant(1e-38), |max: T, x| max.max(x.abs()));
        let codes = values.iter().map(|&x| nearest(map, x / absmax)).collect();
        Self { codes, absmax }
    }
}

/// The nearest code whose value is negative where `x` is; the lower of two.
fn nearest<T: Float>(map: &MomentMap, x: T) -> u8 {
    let distance = |code: &u8| (constant::<T>(map.values()[usize::from(*code)]) - x).abs();
    let same_sign = |code: &u8| (map.values()[usize::from(*code)] < 0.0) == (x < T::zero());
    let closer = |best: u8, code: u8| if distance(&code) < distance(&best) { code } else { best };
    (0..=255).filter(same_sign).reduce(closer).expect("both signs have codes")
}
