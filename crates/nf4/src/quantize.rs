use rayon::prelude::*;

use crate::codebook::CodeBook;
use crate::config::check_blocksize;
use crate::nested::NestedAbsmax;
use crate::tensor::{Absmax, Parts, check_shape};
use crate::{BLOCKSIZES, Element, Error, QuantConfig, QuantizedTensor};

/// Elements one task works on: a multiple of every block size, small enough to stay in L2.
const CHUNK: usize = 1 << 15;

/// Elements ranked together; enough for two vector registers of any x86 or Arm width.
const LANES: usize = 16;

/// bitsandbytes divides by at least this much.
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
    check_blocksize(config.blocksize)?;
    check_shape(name, shape, data.len())?;
    let (packed, absmax) = quantize_blocks(name, data, config)?;
    let absmax = if config.double_quant {
        Absmax::Nested(NestedAbsmax::quantize(name, &absmax)?)
    } else {
        Absmax::Plain(absmax)
    };
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
            let bad = quantize_chunk(data, blocksize, book, packed, absmax)?;
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

/// Quantises consecutive blocks; the index of the first element that is not finite, if any.
fn quantize_chunk<T: Element>(
    data: &[T],
    blocksize: usize,
    book: &CodeBook,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Option<usize> {
    let mut buffer = [0.0; BLOCKSIZES[BLOCKSIZES.len() - 1]];
    let blocks = data.chunks(blocksize).zip(packed.chunks_mut(blocksize / 2)).zip(absmax);
    for (i, ((block, packed), absmax)) in blocks.enumerate() {
        let block = T::as_f32(block, &mut buffer);
        *absmax = max_magnitude(block);
        if !absmax.is_finite() {
            let bad = block.iter().position(|x| !x.is_finite())?;
            return Some(i * blocksize + bad);
        }
        // bitsandbytes multiplies whole blocks by the reciprocal and divides a short last block;
        // the two can round to different sides of a midpoint. It also stores the clamped absmax of
        // a short block only. Its clamp of the ratio to [-1, 1] cannot change a code.
        if block.len() == blocksize {
            let inverse = 1.0 / absmax.max(MIN_ABSMAX);
            pack(block, |x| x * inverse, book, packed);
        } else {
            *absmax = absmax.max(MIN_ABSMAX);
            pack(block, |x| x / *absmax, book, packed);
        }
    }
    None
}

/// The largest magnitude; NaN or infinite if any element is. Magnitudes of floats order as their
/// bits do, and integer maxima vectorise and do not lose a NaN.
fn max_magnitude(block: &[f32]) -> f32 {
    let bits = block.iter().fold(0, |max: i32, x| max.max((x.to_bits() & 0x7fff_ffff) as i32));
    f32::from_bits(bits as u32)
}

/// Writes the codes of `block`, two to a byte; an odd count is padded with the code of zero.
fn pack(block: &[f32], normalize: impl Fn(f32) -> f32, book: &CodeBook, packed: &mut [u8]) {
    for (block, packed) in block.chunks(LANES).zip(packed.chunks_mut(LANES / 2)) {
        let mut lanes = [0.0; LANES];
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane = normalize(*x);
        }
        let ranks = ranks(&lanes, &book.midpoints);
        for (byte, pair) in packed.iter_mut().zip(ranks.as_chunks::<2>().0) {
            *byte = book.from_ranks[(pair[0] << 4 | pair[1]) as usize];
        }
    }
}

/// The number of midpoints below each value.
fn ranks(values: &[f32; LANES], midpoints: &[f32; 15]) -> [u32; LANES] {
    let mut ranks = [0; LANES];
    for midpoint in midpoints {
        for (rank, value) in ranks.iter_mut().zip(values) {
            *rank += u32::from(value > midpoint);
        }
    }
    ranks
}
