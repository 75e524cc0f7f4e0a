//! Products of few rows, as in generation: each weight is read once and meets all rows in registers.
//!
//! Rows of bf16 and 4-bit weights are multiplied in integers where there are tiles (`integers`). Others in f32: `vpermps`
//! looks 16 weights up at a time, straight from the bytes of their codes: 32 weights take six operations and the
//! multiplications.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm512_add_ps, _mm512_and_si512,
    _mm512_castsi512_ps, _mm512_cvtepu8_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32,
};

use half::bf16;

use super::integers::{IntegerRows, IntegerWeight};
use crate::cpu::four_bit::{FourBit, RUN};
use crate::cpu::level::{CpuLevel, has_amx, level};
use crate::cpu::team;
use crate::cpu::tiles::{Tile, tiles};
use crate::cpu::view::{FloatMut, FloatRef};
use crate::cpu::weight::WeightRef;

/// Most rows.
pub(super) const ROWS: usize = 4;
/// Most rows where there are tiles for them: there three and four rows and 4096 x 4096 in 4 bits took 0.92 and 0.94 ms,
/// in f32 1.30 and 1.62.
const ROWS_BESIDE_TILES: usize = 2;
/// Outputs of a task.
const OUTPUTS: usize = 48;

/// Most rows like those of `x` that [`multiply_few`] multiplies by a weight.
pub(in crate::cpu) fn few_rows(x: FloatRef<'_>, weight: WeightRef<'_>) -> usize {
    match (x, weight) {
        (FloatRef::Bf16(_), WeightRef::Dense(_)) if has_amx() => ROWS_BESIDE_TILES,
        _ => ROWS,
    }
}

/// `out = finish(x [m, k] . W^T)` for up to [`few_rows`] rows and a weight `[n, k]`, where `finish` is given the
/// f32 sums of all rows and some columns and the tile to store them to. False, and nothing done, unless
/// the processor has AVX-512, `k` is a multiple of 64 and the weight is bf16, or of 4 bits in blocks of at
/// least 64.
pub(in crate::cpu) fn multiply_few(
    x: FloatRef<'_>,
    weight: WeightRef<'_>,
    out: &mut FloatMut<'_>,
    (m, n, k): (usize, usize, usize),
    finish: impl Fn(&mut [f32], &mut Tile<'_>) + Sync,
) -> bool {
    if level() < CpuLevel::Avx512
        || !(1..=few_rows(x, weight)).contains(&m)
        || n == 0
        || k == 0
        || !k.is_multiple_of(RUN)
    {
        return false;
    }
    let weight = match weight {
        WeightRef::Dense(FloatRef::Bf16(values)) => Weight::Dense(values),
        WeightRef::Dense(FloatRef::F32(_)) => return false,
        WeightRef::Quantized(weight) => match FourBit::new(weight, n, k) {
            Some(weight) => Weight::FourBit(weight),
            None => return false,
        },
    };
    if let (Weight::FourBit(weight), FloatRef::Bf16(values), FloatMut::Bf16(_)) =
        (&weight, x, &*out)
        && has_amx()
        && let Some(x) = IntegerRows::new(values, m, k)
    {
        let weight = IntegerWeight::new(weight);
        let tiles = tiles(out.reborrow(), n, 0..n, m, OUTPUTS);
        team::for_each_init(tiles, Vec::new, |absmax, mut tile| {
            let mut sums = [0.0; ROWS * OUTPUTS];
            let sums = &mut sums[..m * tile.cols];
            weight.multiply(&x, tile.col, absmax, sums);
            finish(sums, &mut tile);
        });
        return true;
    }
    let x = halves(x, m, k);
    team::for_each(tiles(out.reborrow(), n, 0..n, m, OUTPUTS), |mut tile| {
        let mut sums = [0.0; ROWS * OUTPUTS];
        let sums = &mut sums[..m * tile.cols];
        for col in 0..tile.cols {
            // SAFETY: the processor has AVX-512: the level is no less.
            let dots = unsafe { dots(&weight, tile.col + col, &x, (m, k)) };
            for (row, dot) in dots[..m].iter().enumerate() {
                sums[row * tile.cols + col] = *dot;
            }
        }
        finish(sums, &mut tile);
    });
    true
}

enum Weight<'a> {
    FourBit(FourBit<'a>),
    Dense(&'a [bf16]),
}

/// The rows in f32, for every 32 columns the even ones before the odd ones, as bytes hold the codes.
fn halves(x: FloatRef<'_>, m: usize, k: usize) -> Vec<f32> {
    let mut wide = Vec::new();
    let wide = x.slice(0..m * k).widen(&mut wide);
    let mut halves = vec![0.0; m * k];
    for (x, out) in wide.chunks_exact(32).zip(halves.chunks_exact_mut(32)) {
        for i in 0..16 {
            (out[i], out[16 + i]) = (x[2 * i], x[2 * i + 1]);
        }
    }
    halves
}

/// Products of one row of the weight with all rows of `x`.
#[target_feature(enable = "avx512f")]
fn dots(weight: &Weight<'_>, row: usize, x: &[f32], (m, k): (usize, usize)) -> [f32; ROWS] {
    match m {
        1 => dots_of::<1>(weight, row, x, k),
        2 => dots_of::<2>(weight, row, x, k),
        3 => dots_of::<3>(weight, row, x, k),
        _ => dots_of::<4>(weight, row, x, k),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn dots_of<const M: usize>(weight: &Weight<'_>, row: usize, x: &[f32], k: usize) -> [f32; ROWS] {
    assert_eq!(x.len(), M * k, "rows differ from their shape");
    // Several sums, for each addition waits for the one before.
    let mut sums = [[_mm512_setzero_ps(); 4]; M];
    match weight {
        Weight::FourBit(weight) => {
            let codebook = load(weight.codebook());
            for col in (0..k).step_by(RUN) {
                let (bytes, absmax) = weight.run(row, col);
                fetch(bytes);
                let values = _mm512_mul_ps(codebook, _mm512_set1_ps(absmax));
                // Closures would be compiled without the vectors that this function is for.
                let weights = [look_up(&bytes[..16], values), look_up(&bytes[16..], values)];
                for (i, sums) in sums.iter_mut().enumerate() {
                    add_products(sums, weights, &x[i * k + col..][..RUN]);
                }
            }
        }
        Weight::Dense(values) => {
            let values = &values[row * k..(row + 1) * k];
            for (col, values) in (0..k).step_by(RUN).zip(values.chunks_exact(RUN)) {
                fetch(values);
                let weights = [widen(&values[..32]), widen(&values[32..])];
                for (i, sums) in sums.iter_mut().enumerate() {
                    add_products(sums, weights, &x[i * k + col..][..RUN]);
                }
            }
        }
    }
    let mut dots = [0.0; ROWS];
    for (dot, sum) in dots.iter_mut().zip(sums) {
        let [a, b, c, d] = sum;
        *dot = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    }
    dots
}

/// Adds the products of 64 weights with as many elements of a row.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_products(sums: &mut [__m512; 4], weights: [[__m512; 2]; 2], x: &[f32]) {
    for i in 0..4 {
        sums[i] = _mm512_fmadd_ps(weights[i / 2][i % 2], load(&x[16 * i..]), sums[i]);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32]) -> __m512 {
    let x: &[f32; 16] = x.first_chunk().expect("16 values");
    // SAFETY: 16 readable values.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

/// Asks for what lies ahead of some part of a weight: the processor's own prefetcher begins anew with every
/// 4 KiB.
#[inline]
#[target_feature(enable = "avx512f")]
fn fetch<T>(part: &[T]) {
    const AHEAD: usize = 2048;
    // A hint, which may name any address.
    _mm_prefetch::<_MM_HINT_T0>(part.as_ptr().wrapping_byte_add(AHEAD).cast());
}

/// 32 weights of 16 bytes: those of the high halves, then those of the low ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn look_up(bytes: &[u8], codebook: __m512) -> [__m512; 2] {
    let bytes: &[u8; 16] = bytes.first_chunk().expect("16 bytes");
    // SAFETY: 16 readable bytes.
    let bytes = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
    // Only the lowest four bits of an index count.
    let high = _mm512_srli_epi32::<4>(bytes);
    [_mm512_permutexvar_ps(high, codebook), _mm512_permutexvar_ps(bytes, codebook)]
}

/// 32 values: the even ones, then the odd ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(values: &[bf16]) -> [__m512; 2] {
    let values: &[bf16; 32] = values.first_chunk().expect("32 values");
    // SAFETY: 64 readable bytes.
    let pairs: __m512i = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
    let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
}
