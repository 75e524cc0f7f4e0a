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
