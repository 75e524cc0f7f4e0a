#![expect(
    clippy::inline_always,
    reason = "only inlined code is compiled for the vector width that is picked at run time"
)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::codebook::CodeBook;
use crate::tensor::{Absmax, Parts};
use crate::{BLOCKSIZES, Element, Error, QuantConfig, QuantizedTensor};

/// Elements one task works on: a multiple of every block size, small enough to stay in L2.
const CHUNK: usize = 1 << 15;

/// Elements encoded together: a divisor of every block size that fills the widest vectors.
const LANES: usize = 32;

/// Bytes that their codes take.
const BYTES: usize = LANES / 2;

const MAX_BLOCKSIZE: usize = BLOCKSIZES[BLOCKSIZES.len() - 1];

/// bitsandbytes divides by at least this much, and stores at least this much for a short block.
const MIN_ABSMAX: f32 = 1e-38;

/// Quantises a weight of `shape` given in row-major order; `name` is used in errors only.
///
/// Runs on the current rayon pool; the result does not depend on the number of threads. Errors when
/// the block size or the shape does not fit or an element is NaN or infinite.
pub fn quantize<T: Element>(
    name: &str,
    data: &[T],
    shape: &[usize],
    config: &QuantConfig,
) -> Result<QuantizedTensor, Error> {
    config.check(name, shape, data.len())?;
    let (packed, absmax) = quantize_blocks(name, data, config)?;
    let absmax = Absmax::new(name, absmax, config.double_quant)?;
    let parts = Parts {
        quant_type: config.quant_type,
        blocksize: config.blocksize,
        source_dtype: T::DTYPE,
        shape: shape.to_vec(),
        packed,
        absmax,
    };
    Ok(QuantizedTensor::new_unchecked(parts))
}

/// The packed codes and the absmax of each block.
fn quantize_blocks<T: Element>(
    name: &str,
    data: &[T],
    config: &QuantConfig,
) -> Result<(Vec<u8>, Vec<f32>), Error> {
    let (blocksize, book) = (config.blocksize, config.quant_type.book());
    let mut packed = vec![0; data.len().div_ceil(2)];
    let mut absmax = vec![0.0; data.len().div_ceil(blocksize)];
    let first_bad = data
        .par_chunks(CHUNK)
        .zip(packed.par_chunks_mut(CHUNK / 2))
        .zip(absmax.par_chunks_mut(CHUNK / blocksize))
        .enumerate()
        .filter_map(|(i, ((data, packed), absmax))| {
            let bad = Arch::new().dispatch(Chunk { data, blocksize, book, packed, absmax })?;
            Some(i * CHUNK + bad)
        })
        .min();
    match first_bad {
        None => Ok((packed, absmax)),
        Some(index) => {
            Err(Error::NonFinite { name: name.to_owned(), index, value: data[index].to_f32() })
        }
    }
}

/// Consecutive blocks, quantised by one task.
struct Chunk<'a, T> {
    data: &'a [T],
    blocksize: usize,
    book: &'a CodeBook,
    packed: &'a mut [u8],
    absmax: &'a mut [f32],
}

/// Compiled once for each vector width; everything below is inlined so that it is, too.
impl<T: Element> WithSimd for Chunk<'_, T> {
    /// Index of the first element that is not finite, if any.
    type Output = Option<usize>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<usize> {
        let mut buffer = [0.0; MAX_BLOCKSIZE];
        let Self { data, blocksize, book, packed, absmax } = self;
        let blocks = data.chunks(blocksize).zip(packed.chunks_mut(blocksize / 2)).zip(absmax);
        for (i, ((block, packed), absmax)) in blocks.enumerate() {
            let block = T::as_f32(block, &mut buffer);
            *absmax = max_magnitude(block);
            if !absmax.is_finite() {
                let bad = block.iter().position(|x| !x.is_finite())?;
                return Some(i * blocksize + bad);
            }
            if block.len() == blocksize {
                pack_whole(simd, block, *absmax, book, packed);
            } else {
                *absmax = absmax.max(MIN_ABSMAX);
                pack_short(simd, block, *absmax, book, packed);
            }
        }
        None
    }
}

/// The largest magnitude; NaN or infinite if any element is. Magnitudes of floats order as their
/// bits do, and integer maxima vectorise and do not lose a NaN.
#[inline(always)]
fn max_magnitude(block: &[f32]) -> f32 {
    let bits = block.iter().fold(0, |max: i32, x| max.max((x.to_bits() & 0x7fff_ffff) as i32));
    f32::from_bits(bits as u32)
}

/// Packs a block of the full size. bitsandbytes multiplies by the reciprocal here, which can round
/// to the other side of a midpoint than division; its clamp to [-1, 1] cannot change a code.
#[inline(always)]
fn pack_whole<S: Simd>(simd: S, block: &[f32], absmax: f32, book: &CodeBook, packed: &mut [u8]) {
    let inverse = 1.0 / absmax.max(MIN_ABSMAX);
    let groups = block.as_chunks::<LANES>().0;
    for (values, packed) in groups.iter().zip(packed.as_chunks_mut::<BYTES>().0) {
        let mut scaled = [0.0; LANES];
        for (scaled, x) in scaled.iter_mut().zip(values) {
            *scaled = x * inverse;
        }
        *packed = encode(simd, &scaled, book);
    }
}

/// Packs a shorter last block, where bitsandbytes divides. An odd count is padded with zero.
#[inline(always)]
fn pack_short<S: Simd>(simd: S, block: &[f32], absmax: f32, book: &CodeBook, packed: &mut [u8]) {
    for (block, packed) in block.chunks(LANES).zip(packed.chunks_mut(BYTES)) {
        let mut values = [0.0; LANES];
        for (value, x) in values.iter_mut().zip(block) {
            *value = x / absmax;
        }
        packed.copy_from_slice(&encode(simd, &values, book)[..packed.len()]);
    }
}

/// The packed codes of values in units of `absmax`: each midpoint below a value steps on to the
/// next code, so a tie takes the lower one.
#[inline(always)]
fn encode<S: Simd>(simd: S, values: &[f32; LANES], book: &CodeBook) -> [u8; BYTES] {
    let mut codes = [0; LANES];
    let groups = S::as_simd_f32s(values).0.iter().zip(S::as_mut_simd_u32s(&mut codes).0);
    for (values, codes) in groups {
        *codes = simd.splat_u32s(book.lowest);
        for (midpoint, step) in book.midpoints.iter().zip(&book.steps) {
            let above = simd.less_than_f32s(simd.splat_f32s(*midpoint), *values);
            let next = simd.add_u32s(*codes, simd.splat_u32s(*step));
            *codes = simd.select_u32s(above, next, *codes);
        }
    }
    let mut packed = [0; BYTES];
    for (byte, pair) in packed.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    packed
}
