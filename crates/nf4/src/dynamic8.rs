//! Blockwise 8-bit quantisation with the dynamic maps (arXiv:2110.02861).

use std::sync::LazyLock;

/// Bins of the table bitsandbytes' CPU backend looks codes up in.
const BINS: usize = 1 << 16;

/// Smallest divisor, so that tiny values go to zero instead of NaN.
pub(crate) const MIN_ABSMAX: f32 = 1e-38;

/// How a value is taken to one of the 256 codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The nearest value of the map, ties to the lower one.
    Nearest,
    /// As bitsandbytes' CPU backend does: the value is first rounded to one of 65,536 even steps
    /// over [-1, 1], and a block of zeros gets code 0. Zero itself becomes 2.1e-5 of the absmax.
    Table,
}

/// A tensor in blockwise 8-bit form; value `i` is `map()[codes[i]] * absmax[i / blocksize]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Blockwise8 {
    /// One code per element.
    pub codes: Vec<u8>,
    /// Largest magnitude of each block.
    pub absmax: Vec<f32>,
}

/// Quantises finite values in blocks of `blocksize` (the last may be short).
pub fn quantize(data: &[f32], blocksize: usize, rounding: Rounding) -> Blockwise8 {
    let mut codes = Vec::with_capacity(data.len());
    let mut absmax = Vec::with_capacity(data.len().div_ceil(blocksize));
    for block in data.chunks(blocksize) {
        let max = block.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        absmax.push(max);
        match rounding {
            Rounding::Nearest => {
                let inverse = 1.0 / max.max(MIN_ABSMAX);
                codes.extend(block.iter().map(|x| nearest(x * inverse)));
            }
            // Below 2.9e-39 the reciprocal is infinite, zero times it NaN, and NaN falls in bin 0.
            Rounding::Table => {
                let inverse = 1.0 / max;
                codes.extend(block.iter().map(|x| TABLE[bin(x * inverse)]));
            }
        }
    }
    Blockwise8 { codes, absmax }
}

/// The 256 values of the signed dynamic map, ascending, from -0.993 to 1.
///
/// Decade `i` (of 7, the largest ending at 1) is cut into `2^i` equal intervals whose centres are
/// taken with both signs; 0 and 1 complete the map (bitsandbytes `create_dynamic_map`).
pub fn map() -> &'static [f32; 256] {
    &MAP
}

/// The 256 values of the unsigned dynamic map, ascending, from 0 to 1: twice as many intervals a
/// decade, whose centres are taken with one sign.
pub fn unsigned_map() -> &'static [f32; 256] {
    &UNSIGNED_MAP
}

static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
    complete((0..7).flat_map(|i| centres(i, 1 << i)).flat_map(|centre| [centre, -centre]))
});

static UNSIGNED_MAP: LazyLock<[f32; 256]> =
    LazyLock::new(|| complete((0..7).flat_map(|i| centres(i, 2 << i))));

/// A map from its other 254 values.
fn complete(values: impl Iterator<Item = f32>) -> [f32; 256] {
    let mut map = [0.0; 256];
    map[0] = 1.0;
    map[2..].iter_mut().zip(values).for_each(|(to, value)| *to = value);
    map.sort_by(f32::total_cmp);
    map
}

/// The centres of decade `i` cut into `intervals`.
fn centres(i: i32, intervals: usize) -> Vec<f32> {
    let scale = 10.0_f64.powi(i - 6) as f32;
    let steps = linspace(intervals);
    steps.windows(2).map(|pair| scale * f32::midpoint(pair[0], pair[1])).collect()
}

/// `intervals + 1` even steps from 0.1 to 1, in f32, fused and from both ends as torch takes them.
fn linspace(intervals: usize) -> Vec<f32> {
    let (start, end) = (0.1_f32, 1.0_f32);
    let step = (end - start) / intervals as f32;
    let half = intervals.div_ceil(2);
    (0..=intervals)
        .map(|i| {
            if i < half {
                step.mul_add(i as f32, start)
            } else {
                (-step).mul_add((intervals - i) as f32, end)
            }
        })
        .collect()
}

static MIDPOINTS: LazyLock<[f32; 255]> =
    LazyLock::new(|| std::array::from_fn(|i| f32::midpoint(MAP[i], MAP[i + 1])));

fn nearest(x: f32) -> u8 {
    MIDPOINTS.partition_point(|midpoint| *midpoint < x) as u8
}

static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let last = (BINS - 1) as f32;
    (0..BINS).map(|i| nearest(-1.0 + 2.0 * i as f32 / last)).collect()
});

fn bin(x: f32) -> usize {
    let last = (BINS - 1) as f32;
    ((x.clamp(-1.0, 1.0) + 1.0) * 0.5 * last + 0.5) as usize
}
