//! From raw products to scores, and which of them a query sees.

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_div_ps, _mm512_fnmadd_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_sub_ps,
};
use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::lanes::{LANES, exp2};
use crate::ops::Attention;

/// What rows of scores are made from.
#[derive(Debug, Clone, Copy)]
pub(in crate::cpu) struct Scores(Attention);

impl Scores {
    pub(in crate::cpu) const fn new(op: Attention) -> Self {
        Self(op)
    }

    /// From the values that maxima are taken of to scores.
    pub(in crate::cpu) const fn factor(self) -> f32 {
        if self.monotonic() { self.0.scale } else { 1.0 }
    }

    /// Whether the largest product gives the largest score, and a factor is all that is between them.
    pub(super) const fn monotonic(self) -> bool {
        self.0.softcap.is_none() && self.0.scale > 0.0
    }
}

/// Which elements of register `i` of a row are in `visible`.
#[inline]
pub(super) fn lanes(visible: &Range<usize>, i: usize) -> u16 {
    if visible.start <= i * LANES && (i + 1) * LANES <= visible.end {
        return u16::MAX;
    }
    let below = |end: usize| (1_u32 << end.saturating_sub(i * LANES).min(LANES)) - 1;
    (below(visible.end) & !below(visible.start)) as u16
}

/// A score times `log2(e)`, and the derivative of the score by the scaled product.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn to_score(op: Attention, product: __m512) -> (__m512, __m512) {
    let one = _mm512_set1_ps(1.0);
    let Some(cap) = op.softcap else {
        return (_mm512_mul_ps(product, _mm512_set1_ps(op.scale * LOG2_E)), one);
    };
    // tanh(x) = 1 - 2 / (e^2x + 1), to 1e-7 of the cap.
    let power = exp2(_mm512_mul_ps(product, _mm512_set1_ps(2.0 * LOG2_E * op.scale / cap)));
    let tanh = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0), _mm512_add_ps(power, one)));
    let slope = _mm512_fnmadd_ps(tanh, tanh, one);
    (_mm512_mul_ps(tanh, _mm512_set1_ps(cap * LOG2_E)), slope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_those_in_the_range() {
        for (range, expected) in [
            (0..40, [0xffff, 0xffff, 0xff]),
            (3..3, [0; 3]),
            (17..18, [0, 2, 0]),
            (5..60, [0xffe0, 0xffff, 0xffff]),
        ] {
            assert_eq!([0, 1, 2].map(|i| lanes(&range, i)), expected, "{range:?}");
        }
    }
}
