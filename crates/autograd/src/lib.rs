//! LoRA autograd core: tensors, a tape, operations with their backward, recompute, optimizers.
//!
//! A [`Tape`] records what a forward pass did and runs it backwards once. Only adapters train, so a
//! [`Var`] carries a node only where a gradient is needed; frozen weights are borrowed, never
//! differentiated. Parameter gradients gather in [`ParamGrads`] over as many backward passes as an
//! accumulation window has.
//!
//! **Architecture Invariant:** no file format and no model here. A recomputed forward is bit-identical
//! to the first, because everything random in it is drawn by counter.

mod error;
mod linear;
mod ops;
mod optim;
mod params;
mod remake;
mod tape;
mod tensor;

pub use error::{Error, Result};
pub use linear::{AdaptedLinear, FrozenLinear, FrozenWeight, LoraLinear};
pub use ops::TokenLosses;
pub use optim::{AdamW, AdamWConfig, AdamWState, MomentsState, clip_factor};
pub use params::{Param, ParamGrads, ParamId, Params};
pub use tape::{Precision, Tape};
pub use tensor::{Tensor, Var};
