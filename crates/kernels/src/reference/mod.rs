//! The slow, obviously right definition of each operation, forward and backward, that every backend
//! is tested against.
//!
//! Generic in the float type: `f64` is the truth, `f32` the naive implementation whose error says
//! how far a good one may be from the truth.
