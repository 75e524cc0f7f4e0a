//! Gated activations of the MLP in one pass over bf16, with fused products and an approximate reciprocal: two
//! thirds of the time of the loops that are compiled for all processors.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_rcp14_ps, _mm512_set1_ps,
};
use std::f32::consts::LOG2_E;

use half::bf16;

use super::lanes::{LANES, exp2, narrow, widen};
use crate::cpu::blocks::CHUNK;
use crate::cpu::gated::{CUBIC, SQRT_2_OVER_PI};
use crate::cpu::prefetch;
use crate::ops::Activation;

/// Bytes between what is computed on and what is fetched: what the thread's next task begins with.
const AHEAD: usize = 2 * CHUNK;

/// `out = act(gate) * up`. Panics where there are no tiles.
pub(in crate::cpu) fn gate(act: Activation, gate: &[bf16], up: &[bf16], out: &mut [bf16]) {
    assert!(super::available());
    // SAFETY: a processor with the tiles has all features that are enabled.
    unsafe { gate_all(act, gate, up, out) }
}

/// Turns `gate` and `up` into their gradients, and the output's gradient into the output. Panics where there are no
/// tiles.
pub(in crate::cpu) fn gate_gradients(
    act: Activation,
    d_out: &mut [bf16],
    gate: &mut [bf16],
    up: &mut [bf16],
) {
    assert!(super::available());
    // SAFETY: as above.
    unsafe { gradients_all(act, d_out, gate, up) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn gate_all(act: Activation, gate: &[bf16], up: &[bf16], out: &mut [bf16]) {
    let (gate, last_gate) = gate.as_chunks();
    let (up, last_up) = up.as_chunks();
    let (out, last_out) = out.as_chunks_mut();
    for ((gate, up), out) in gate.iter().zip(up).zip(out) {
        prefetch::to_read_beyond(gate, AHEAD);
        prefetch::to_read_beyond(up, AHEAD);
        prefetch::to_write_beyond(out, AHEAD);
        *out = product(act, gate, up);
    }
    let last = product(act, &padded(last_gate), &padded(last_up));
    last_out.copy_from_slice(&last[..last_out.len()]);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn product(act: Activation, gate: &[bf16; LANES], up: &[bf16; LANES]) -> [bf16; LANES] {
    narrow(_mm512_mul_ps(activate(act, widen(gate)).0, widen(up)))
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn gradients_all(act: Activation, d_out: &mut [bf16], gate: &mut [bf16], up: &mut [bf16]) {
    let (d_out, last_d_out) = d_out.as_chunks_mut();
    let (gate, last_gate) = gate.as_chunks_mut();
    let (up, last_up) = up.as_chunks_mut();
    for ((d_out, gate), up) in d_out.iter_mut().zip(gate).zip(up) {
        prefetch::to_write_beyond(d_out, AHEAD);
        prefetch::to_write_beyond(gate, AHEAD);
        prefetch::to_write_beyond(up, AHEAD);
        gradients(act, d_out, gate, up);
    }
    let (mut d_out, mut gate, mut up) = (padded(last_d_out), padded(last_gate), padded(last_up));
    gradients(act, &mut d_out, &mut gate, &mut up);
    last_d_out.copy_from_slice(&d_out[..last_d_out.len()]);
    last_gate.copy_from_slice(&gate[..last_gate.len()]);
    last_up.copy_from_slice(&up[..last_up.len()]);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn gradients(
    act: Activation,
    d_out: &mut [bf16; LANES],
    gate: &mut [bf16; LANES],
    up: &mut [bf16; LANES],
) {
    let (value, slope) = activate(act, widen(gate));
    let (old_up, old_d_out) = (widen(up), widen(d_out));
    *d_out = narrow(_mm512_mul_ps(value, old_up));
    *gate = narrow(_mm512_mul_ps(_mm512_mul_ps(old_d_out, old_up), slope));
    *up = narrow(_mm512_mul_ps(old_d_out, value));
}

fn padded(x: &[bf16]) -> [bf16; LANES] {
    let mut padded = [bf16::ZERO; LANES];
    padded[..x.len()].copy_from_slice(x);
    padded
}

/// Value and slope of an activation.
#[inline]
#[target_feature(enable = "avx512f")]
fn activate(act: Activation, x: __m512) -> (__m512, __m512) {
    let one = _mm512_set1_ps(1.0);
    // Both are x times the sigmoid of something, whose slope is `inner`.
    let (s, inner) = match act {
        Activation::Silu => (sigmoid(x), one),
        Activation::GeluTanh => {
            const FACTOR: f32 = 2.0 * SQRT_2_OVER_PI;
            let square = _mm512_mul_ps(x, x);
            let factor = _mm512_set1_ps(FACTOR);
            let inner = _mm512_fmadd_ps(square, _mm512_set1_ps(FACTOR * CUBIC), factor);
            let slope = _mm512_fmadd_ps(square, _mm512_set1_ps(3.0 * FACTOR * CUBIC), factor);
            (sigmoid(_mm512_mul_ps(x, inner)), slope)
        }
    };
    let value = _mm512_mul_ps(x, s);
    let slope = _mm512_mul_ps(value, inner);
    (value, _mm512_fmadd_ps(slope, _mm512_fnmadd_ps(one, s, one), s))
}

/// `1 / (1 + e^-x)` to 5e-6 of it, a thousandth of what bf16 leaves; 2^-126 where it is less.
#[inline]
#[target_feature(enable = "avx512f")]
fn sigmoid(x: __m512) -> __m512 {
    let power = _mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E));
    // The second operand if either is NaN.
    let power = exp2(_mm512_min_ps(_mm512_set1_ps(126.0), power));
    let sum = _mm512_add_ps(power, _mm512_set1_ps(1.0));
    // A step of Newton's from 14 bits.
    let inverse = _mm512_rcp14_ps(sum);
    let rest = _mm512_fnmadd_ps(sum, inverse, _mm512_set1_ps(1.0));
    _mm512_fmadd_ps(inverse, rest, inverse)
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{from, to};
    use super::*;

    fn sigmoids(x: [f32; LANES]) -> [f32; LANES] {
        #[target_feature(enable = "avx512f")]
        fn sigmoids(x: [f32; LANES]) -> [f32; LANES] {
            to(sigmoid(from(&x)))
        }
        // SAFETY: only called where the tiles are available.
        unsafe { sigmoids(x) }
    }

    #[test]
    fn sigmoids_are_close() {
        if !super::super::available() {
            return;
        }
        let bits = (0..f32::to_bits(100.0)).step_by(97);
        let values: Vec<f32> =
            bits.flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).collect();
        let mut worst = 0.0_f64;
        for x in values.as_chunks::<LANES>().0 {
            for (x, got) in x.iter().zip(sigmoids(*x)) {
                let truth = 1.0 / (1.0 + (-f64::from(*x)).exp());
                if *x > -87.3 {
                    worst = worst.max((f64::from(got) / truth - 1.0).abs());
                } else {
                    assert!(got <= 1.3e-38, "the sigmoid of {x} is {got}");
                }
            }
        }
        assert!(worst < 5e-6, "{worst:e}");
        let infinite = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        let special = sigmoids(infinite.repeat(4).try_into().unwrap());
        assert!(special[0].is_nan());
        assert_eq!((special[1], special[3]), (1.0, 0.5));
        assert!(special[2] <= 1.2e-38);
    }
}
