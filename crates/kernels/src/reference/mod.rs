//! The slow, obviously right definition of each operation, forward and backward, that every backend
//! is tested against.
//!
//! Generic in the float type: `f64` is the truth, `f32` the naive implementation whose error says
//! how far a good one may be from the truth. Backwards return the gradients of `sum(dy * y)`.
//! Operands must have the lengths that the shapes ask for.

mod attention;
mod cross_entropy;
mod gated;
mod linear;
mod optimizer;
mod rms_norm;
mod rope;

pub use attention::{AttentionInputs, Sequence, attention, attention_backward};
pub use cross_entropy::{CrossEntropyInputs, linear_cross_entropy};
pub use gated::{gated, gated_backward};
pub use linear::{
    LinearInputs, LoraInputs, linear, linear_backward, linear_backward_rounding, masked,
};
pub use optimizer::{Moment8, adamw, adamw_8bit};
pub use rms_norm::{rms_norm, rms_norm_backward};
pub use rope::rope;

use num_traits::Float;

/// A constant in the float type at hand.
fn constant<T: Float>(x: f32) -> T {
    T::from(x).expect("every f32 converts to f32 and f64")
}

/// Sum in order.
fn sum<T: Float>(values: impl IntoIterator<Item = T>) -> T {
    values.into_iter().fold(T::zero(), |sum, x| sum + x)
}

/// Dot product in order.
fn dot<T: Float>(x: &[T], y: &[T]) -> T {
    sum(x.iter().zip(y).map(|(&x, &y)| x * y))
}
