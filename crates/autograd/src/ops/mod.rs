//! Operations of the tape: each allocates its output, runs the backend's forward, and records the
//! backend's backward.

mod attention;
mod elementwise;
mod linear;
mod loss;
mod mlp;
mod norm;
mod rope;

pub use loss::TokenLosses;
