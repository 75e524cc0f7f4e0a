use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::look_up::look_up;
use crate::{Element, QuantType};

/// Elements one task restores: whole blocks of any size.
const CHUNK: usize = 1 << 15;

/// Restores the elements `start .. start + out.len()` of a quantised weight, on this thread.
///
/// `packed` and `absmax` are those of the whole weight (flat, row-major); any `start` will do.
/// Each value is `code value * absmax`, one f32 rounding. Panics when the range reaches past the
/// end of `packed` or `absmax`.
pub fn dequantize_range(
    packed: &[u8],
    absmax: &[f32],
    quant_type: QuantType,
    blocksize: usize,
    start: usize,
    out: &mut [f32],
) {
    let pairs = &quant_type.book().pairs;
    let (mut at, mut out) = (start, out);
    while !out.is_empty() {
        let block = at / blocksize;
        let len = out.len().min((block + 1) * blocksize - at);
        let (head, rest) = out.split_at_mut(len);
        decode(&packed[at / 2..], at % 2, absmax[block], pairs, head);
        at += len;
        out = rest;
    }
}

/// Restores one block's elements, the first of which is nibble `skip` of the first byte.
fn decode(packed: &[u8], skip: usize, absmax: f32, pairs: &[[f32; 2]; 256], out: &mut [f32]) {
    let (head, out) = out.split_at_mut(skip.min(out.len()));
    if let [first] = head {
        *first = pairs[packed[0] as usize][1] * absmax;
    }
    let (whole, last) = out.as_chunks_mut::<2>();
    let packed = &packed[skip..];
    for (out, byte) in whole.iter_mut().zip(packed) {
        let [high, low] = pairs[*byte as usize];
        *out = [high * absmax, low * absmax];
    }
    if let [last] = last {
        *last = pairs[packed[whole.len()] as usize][0] * absmax;
    }
}

/// Restores a whole weight on the current rayon pool.
pub(crate) fn dequantize_all<T: Element>(
    packed: &[u8],
    absmax: &[f32],
    quant_type: QuantType,
    blocksize: usize,
    out: &mut [T],
) {
    out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
        let first = i * CHUNK;
        #[cfg(target_arch = "x86_64")]
        {
            let (packed, absmax) = (&packed[first / 2..], &absmax[first / blocksize..]);
            if look_up(packed, absmax, quant_type.values(), blocksize, out) {
                return;
            }
        }
        T::fill(out, |start, values| {
            dequantize_range(packed, absmax, quant_type, blocksize, first + start, values);
        });
    });
}
