use num_traits::Float;

use super::constant;
use crate::ops::Activation;

/// `act(gate) * up`.
pub fn gated<T: Float>(act: Activation, gate: &[T], up: &[T]) -> Vec<T> {
    let pairs = gate.iter().zip(up);
    pairs.map(|(&gate, &up)| value_and_slope(act, gate).0 * up).collect()
}

/// Gradients of `gate` and `up`.
pub fn gated_backward<T: Float>(
    act: Activation,
    gate: &[T],
    up: &[T],
    dy: &[T],
) -> (Vec<T>, Vec<T>) {
    let triples = gate.iter().zip(up).zip(dy);
    triples
        .map(|((&gate, &up), &dy)| {
            let (value, slope) = value_and_slope(act, gate);
            (dy * up * slope, dy * value)
        })
        .unzip()
}

fn value_and_slope<T: Float>(act: Activation, x: T) -> (T, T) {
    let one = T::one();
    match act {
        Activation::Silu => {
            let sigmoid = one / (one + (-x).exp());
            (x * sigmoid, sigmoid * (one + x * (one - sigmoid)))
        }
        Activation::GeluTanh => {
            let (half, three) = (constant::<T>(0.5), constant::<T>(3.0));
            let cubic = T::from(0.044_715).expect("a number");
            let root = T::from(std::f64::consts::FRAC_2_PI).expect("a number").sqrt();
            let tanh = (root * (x + cubic * x * x * x)).tanh();
            let inner_slope = root * (one + three * cubic * x * x);
            let slope = half * (one + tanh) + half * x * (one - tanh * tanh) * inner_slope;
            (half * x * (one + tanh), slope)
        }
    }
}
