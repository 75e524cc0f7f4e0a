//! NF4/FP4 block quantisation and double quantisation, bit-exact with bitsandbytes.
//!
//! A weight is cut, in flat row-major order, into blocks of [`QuantConfig::blocksize`] elements.
//! Each block keeps one f32 `absmax` and a 4-bit code per element ([`QuantType`]); two codes share
//! a byte, the first in the high nibble. Double quantisation stores the `absmax` values themselves
//! as 8-bit codes ([`NestedAbsmax`]). The rule is that of bitsandbytes' CPU backend, checked byte
//! for byte; [`state`] reads and writes its checkpoint keys. [`moment8`] is the 8-bit format of an
//! optimizer's state.
//!
//! ```
//! let weight: Vec<f32> = (0..128).map(|i| (i as f32).sin()).collect();
//! let config = nf4::QuantConfig::new(nf4::QuantType::Nf4, 64, false)?;
//! let quantized = nf4::quantize("w", &weight, &[2, 64], &config)?;
//! assert_eq!(quantized.packed().len(), 64);
//! let back: Vec<f32> = quantized.dequantize();
//! assert!(weight.iter().zip(&back).all(|(w, b)| (w - b).abs() < 0.16));
//! # Ok::<(), nf4::Error>(())
//! ```

mod codebook;
mod config;
mod dequantize;
pub mod dynamic8;
mod element;
mod error;
#[cfg(target_arch = "x86_64")]
mod look_up;
pub mod moment8;
mod nested;
mod quantize;
pub mod state;
mod tensor;
mod torch_sum;

pub use codebook::QuantType;
pub use config::{BLOCKSIZES, QuantConfig};
pub use dequantize::dequantize_range;
pub use element::{Element, Elements, SourceDtype};
pub use error::Error;
pub use nested::NestedAbsmax;
pub use quantize::quantize;
pub use tensor::{Absmax, Parts, QuantizedTensor};
