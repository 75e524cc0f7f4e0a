//! Decoding of ggml block formats, bit for bit as ggml's `dequantize_row_*` and gguf-py do it in f32.

use half::{bf16, f16};

use super::ggml_type::Encoding;

/// Elements in a block of the K formats.
const QK_K: usize = 256;

/// Decodes whole blocks: `bytes` holds `out.len() / block` of them, as the caller has checked.
pub(crate) fn dequantize(encoding: Encoding, bytes: &[u8], out: &mut [f32]) {
    match encoding {
        Encoding::F32 => blocks(bytes, out, |b: &[u8; 4], y: &mut [f32; 1]| {
            y[0] = f32::from_le_bytes(*b);
        }),
        Encoding::F16 => blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| {
            y[0] = f16::from_le_bytes(*b).to_f32();
        }),
        Encoding::Bf16 => blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| {
            y[0] = bf16::from_le_bytes(*b).to_f32();
        }),
        Encoding::Q4_0 => blocks(bytes, out, q4_0),
        Encoding::Q4_1 => blocks(bytes, out, q4_1),
        Encoding::Q5_0 => blocks(bytes, out, q5_0),
        Encoding::Q5_1 => blocks(bytes, out, q5_1),
        Encoding::Q8_0 => blocks(bytes, out, q8_0),
        Encoding::Q4K => blocks(bytes, out, q4_k),
        Encoding::Q5K => blocks(bytes, out, q5_k),
        Encoding::Q6K => blocks(bytes, out, q6_k),
    }
}

fn blocks<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let (bytes, rest) = bytes.as_chunks::<BYTES>();
    let (out, tail) = out.as_chunks_mut::<ELEMENTS>();
    assert!(rest.is_empty() && tail.is_empty() && bytes.len() == out.len());
    for (block, y) in bytes.iter().zip(out) {
        decode(block, y);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Layout: d (f16), 16 bytes of nibbles; low nibbles are elements 0..16, high ones 16..32.
fn q4_0(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        y[i] = d * f32::from(i16::from(q & 0x0f) - 8);
        y[i + 16] = d * f32::from(i16::from(q >> 4) - 8);
    }
}

/// Layout: d, m (f16), 16 bytes of nibbles.
fn q4_1(block: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, &q) in block[4..].iter().enumerate() {
        y[i] = d * f32::from(q & 0x0f) + m;
        y[i + 16] = d * f32::from(q >> 4) + m;
    }
}

/// The 32 five-bit codes of a block: 4 bytes of fifth bits, then 16 bytes of nibbles.
fn five_bit_codes(bits: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    std::array::from_fn(|i| {
        let nibble = bits[4 + i % 16] >> (4 * (i / 16)) & 0x0f;
        nibble | ((high >> i & 1) as u8) << 4
    })
}

/// Layout: d (f16), fifth bits (u32), 16 bytes of nibbles.
fn q5_0(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, q) in y.iter_mut().zip(five_bit_codes(&block[2..])) {
        *y = d * f32::from(i16::from(q) - 16);
    }
}

/// Layout: d, m (f16), fifth bits (u32), 16 bytes of nibbles.
fn q5_1(block: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (y, q) in y.iter_mut().zip(five_bit_codes(&block[4..])) {
        *y = d * f32::from(q) + m;
    }
}

/// Layout: d (f16), 32 signed bytes.
fn q8_0(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (y, &q) in y.iter_mut().zip(&block[2..]) {
        *y = f32::from(q as i8) * d;
    }
}

/// Scale and minimum of sub-block `j` out of 12 bytes that pack eight 6-bit pairs.
fn scale_min(scales: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let (low, high) = (scales[j + 4], (scales[j - 4], scales[j]));
        (low & 0x0f | high.0 >> 6 << 4, low >> 4 | high.1 >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// Layout: d, dmin (f16), 12 bytes of scales, 128 bytes of nibbles: 32 low ones, then the same bytes' 32 high ones.
fn q4_k(block: &[u8; 144], y: &mut [f32; QK_K]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&block[4..16], j);
        let (d, m) = (d * scale, dmin * min);
        let nibbles = &block[16 + j / 2 * 32..][..32];
        for (y, &q) in y.iter_mut().zip(nibbles) {
            *y = d * f32::from(q >> (4 * (j % 2)) & 0x0f) - m;
        }
    }
}

/// Layout: d, dmin (f16), 12 bytes of scales, 32 bytes of fifth bits (bit j for sub-block j), 128 bytes of nibbles.
fn q5_k(block: &[u8; 176], y: &mut [f32; QK_K]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (j, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&block[4..16], j);
        let (d, m) = (d * scale, dmin * min);
        let nibbles = &block[48 + j / 2 * 32..][..32];
        for ((y, &q), &high) in y.iter_mut().zip(nibbles).zip(&block[16..48]) {
            let code = q >> (4 * (j % 2)) & 0x0f | (high >> j & 1) << 4;
            *y = d * f32::from(code) - m;
        }
    }
}

/// Layout: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, d (f16).
fn q6_k(block: &[u8; 210], y: &mut [f32; QK_K]) {
    let d = half_at(block, 208);
    for (i, y) in y.iter_mut().enumerate() {
        // A half of 128 elements: four runs of 32 that share 64 bytes of nibbles and 32 bytes of bit pairs.
        let (half, run, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = block[half * 64 + run % 2 * 32 + lane] >> (4 * (run / 2)) & 0x0f;
        let high = block[128 + half * 32 + lane] >> (2 * run) & 3;
        let scale = f32::from(block[192 + i / 16] as i8);
        *y = d * scale * f32::from(i16::from(low | high << 4) - 32);
    }
}
