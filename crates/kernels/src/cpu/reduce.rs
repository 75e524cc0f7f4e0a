//! Reductions of a row, in a fixed order that fills vector registers.

#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the instruction set of the function it is inlined into"
)]

const LANES: usize = 32;

/// Sum of products.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    fold(sums, |a, b| a + b) + rest
}

/// Sum.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for x in x {
        for lane in 0..LANES {
            sums[lane] += x[lane];
        }
    }
    fold(sums, |a, b| a + b) + rest.iter().sum::<f32>()
}

/// Largest element, NaN left out; negative infinity if there is none.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let (x, rest) = x.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for x in x {
        for lane in 0..LANES {
            largest[lane] = larger(largest[lane], x[lane]);
        }
    }
    rest.iter().fold(fold(largest, larger), |a, &b| larger(a, b))
}

/// Halves the lanes until one is left: one after the other they would take longer than a short row.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES;
    while half > 1 {
        half /= 2;
        for lane in 0..half {
            lanes[lane] = f(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

#[inline(always)]
const fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_of_ragged_rows() {
        for len in [0, 1, 31, 32, 33, 65, 200_u16] {
            let x: Vec<f32> = (0..len).map(|i| f32::from(i % 23) - 11.0).collect();
            let y: Vec<f32> = (0..len).map(|i| f32::from(i % 7)).collect();
            assert_eq!(sum(&x), x.iter().sum::<f32>());
            assert_eq!(dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f32>());
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), largest);
        }
    }
}
