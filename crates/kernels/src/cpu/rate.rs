//! How fast the processor multiplies what lies in its L1 caches: what products are measured against.

use std::time::{Duration, Instant};

use super::{Cpu, fma};
#[cfg(amx)]
use super::{amx, level};
use crate::DType;

/// How long each thread multiplies.
const TIME: Duration = Duration::from_millis(200);
/// Times that the same is multiplied between looks at the clock: a millisecond.
const TIMES: usize = 2000;

impl Cpu {
    /// How many floating-point operations a second all threads of the current pool make together of rows of this
    /// type and a weight, in the loops of this process's level that its products run in, with both operands in the
    /// L1 cache: the most that was seen in a fifth of a second. Those in integers count as what they stand for.
    pub fn multiplication_rate(&self, dtype: DType) -> f64 {
        let rates = rayon::broadcast(|_| {
            let (start, mut most) = (Instant::now(), 0.0_f64);
            while start.elapsed() < TIME {
                let start = Instant::now();
                let flops = multiply(dtype, TIMES);
                most = most.max(flops as f64 / start.elapsed().as_secs_f64());
            }
            most
        });
        rates.into_iter().sum()
    }
}

/// Floating-point operations that were made.
fn multiply(dtype: DType, times: usize) -> usize {
    let of_bf16 = dtype == DType::Bf16;
    #[cfg(amx)]
    if of_bf16 && level::level() == level::CpuLevel::Amx {
        return amx::multiply_from_l1(times);
    }
    if of_bf16 && fma::int16::available() {
        fma::int16::multiply_from_l1(times)
    } else {
        fma::multiply_from_l1(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_it_multiplies() {
        for dtype in [DType::F32, DType::Bf16] {
            let once = multiply(dtype, 1);
            assert!(once >= 2 * 96);
            assert_eq!(multiply(dtype, 3), 3 * once);
        }
    }
}
