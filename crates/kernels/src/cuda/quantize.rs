//! Weights to 4-bit blocks.

use nf4::{Absmax, Elements, QuantConfig, QuantType};

use super::memory::Region;
use super::params::{DTYPE_BF16, DTYPE_F16, DTYPE_F32, QUANTIZE, QuantizeParams, Tensor};
use super::{Cuda, CudaQuantizedWeight};
use crate::{Backend, MemoryKind, Result};

/// Elements on the device at a time: a multiple of every block size, some 16 MB.
const CHUNK: usize = 1 << 22;
const THREADS: u32 = 256;
/// A warp takes a block.
const BLOCKS: usize = THREADS as usize / 32;

/// Codes are found on the device, absmax quantised in turn on the host: there are few of them, and the order in
/// which they are summed is part of the format. Two chunks take turns, so that one is copied while the other is
/// quantised.
pub(super) fn quantize(
    cuda: &Cuda,
    name: &str,
    weight: Elements<'_>,
    shape: &[usize],
    config: &QuantConfig,
) -> Result<CudaQuantizedWeight> {
    let (len, blocksize) = (weight.len(), config.blocksize);
    config.check(name, shape, len)?;
    let region = |bytes, kind| Region::new(&cuda.memory, bytes, kind);
    let packed = region(len.div_ceil(2), MemoryKind::Weights)?;
    let mut absmax = vec![0.0_f32; len.div_ceil(blocksize)];
    let absmax_region = region(size_of_val(&*absmax), MemoryKind::Workspace)?;
    let chunk = || {
        let memory = region(len.min(CHUNK) * size(weight), MemoryKind::Workspace)?;
        Ok((memory, cuda.driver().mark()?))
    };
    let mut chunks =
        (0..len.div_ceil(CHUNK).min(2)).map(|_| chunk()).collect::<Result<Vec<_>>>()?;
    for (i, start) in (0..len).step_by(CHUNK).enumerate() {
        let end = len.min(start + CHUNK);
        let turn = i % chunks.len();
        let (chunk, free) = &mut chunks[turn];
        let params = QuantizeParams {
            x: Tensor { data: chunk.address, dtype: dtype(weight), reserved: 0 },
            len: (end - start) as u64,
            packed: packed.address + (start / 2) as u64,
            absmax: absmax_region.address + (start / blocksize * size_of::<f32>()) as u64,
            ascending: ascending(config.quant_type),
            midpoints: *config.quant_type.midpoints(),
            block: blocksize as u32,
        };
        let driver = cuda.driver();
        match weight {
            Elements::F32(x) => driver.copy_in_after(free, chunk.address, &x[start..end])?,
            Elements::Bf16(x) => driver.copy_in_after(free, chunk.address, &x[start..end])?,
            Elements::F16(x) => driver.copy_in_after(free, chunk.address, &x[start..end])?,
        }
        let warps = (end - start).div_ceil(blocksize);
        driver.launch(&QUANTIZE, &params, [warps.div_ceil(BLOCKS), 1, 1], THREADS, 0)?;
        *free = driver.mark()?;
    }
    cuda.driver().copy_out(absmax_region.address, &mut absmax)?;
    if absmax.iter().any(|x| !x.is_finite()) {
        // The processor says which element it is.
        return cuda.upload_quantized(weight.quantize(name, shape, config)?);
    }
    let absmax = Absmax::new(name, absmax, config.double_quant)?;
    CudaQuantizedWeight::of(&cuda.memory, packed, &absmax, config.quant_type, blocksize, len)
}

const fn dtype(weight: Elements<'_>) -> u32 {
    match weight {
        Elements::F32(_) => DTYPE_F32,
        Elements::Bf16(_) => DTYPE_BF16,
        Elements::F16(_) => DTYPE_F16,
    }
}

/// Bytes of an element.
const fn size(weight: Elements<'_>) -> usize {
    match weight {
        Elements::F32(_) => 4,
        Elements::Bf16(_) | Elements::F16(_) => 2,
    }
}

/// Code `r` in ascending order of value in the `r`-th four bits.
fn ascending(quant_type: QuantType) -> u64 {
    quant_type.ascending().iter().rev().fold(0, |codes, &code| codes << 4 | u64::from(code))
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::{Error, Philox};

    /// Everything that the card holds of a weight, and the offset.
    fn parts(weight: &CudaQuantizedWeight) -> (Vec<Vec<u8>>, f32) {
        let bytes = |region: &Region| {
            let mut bytes = vec![0_u8; region.bytes];
            region.driver().copy_out(region.address, &mut bytes).unwrap();
            bytes
        };
        let regions = std::iter::once(&weight.packed).chain(&weight.held);
        (regions.map(bytes).collect(), weight.scales.offset)
    }

    fn check(cuda: &Cuda, weight: Elements<'_>, config: &QuantConfig) {
        let shape = [weight.len()];
        let on_card = cuda.quantize("w", weight, &shape, config).unwrap();
        let expected = weight.quantize("w", &shape, config).unwrap();
        let expected = CudaQuantizedWeight::new(&cuda.memory, &expected).unwrap();
        assert_eq!(parts(&on_card), parts(&expected), "{config:?}, {} elements", weight.len());
    }

    /// Normal values with a block of zeros, a few midpoints and values that round to them, and tiny ones.
    fn values(len: usize) -> Vec<f32> {
        let philox = Philox::new(3, len as u64);
        let mut values: Vec<f32> = (0..len as u64).map(|i| philox.normal(i) * 0.02).collect();
        for (i, x) in values.iter_mut().enumerate() {
            match i / 512 % 5 {
                1 => *x = 0.0,
                2 => *x = if i % 32 == 0 { 1.0 } else { QuantType::Nf4.midpoints()[i % 15] },
                3 => *x *= 1e-38,
                _ => {}
            }
        }
        values
    }

    #[test]
    fn cuda_blocks_are_those_of_the_processor() {
        let cuda = Cuda::new(0).unwrap();
        for blocksize in nf4::BLOCKSIZES {
            for quant_type in [QuantType::Nf4, QuantType::Fp4] {
                let config = |double| QuantConfig::new(quant_type, blocksize, double).unwrap();
                for len in [1, 31, 2 * blocksize, 9_001] {
                    let x = values(len);
                    check(&cuda, Elements::F32(&x), &config(false));
                    let narrow: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
                    check(&cuda, Elements::Bf16(&narrow), &config(true));
                    let half: Vec<f16> = x.iter().map(|&x| f16::from_f32(x)).collect();
                    check(&cuda, Elements::F16(&half), &config(true));
                }
            }
        }
    }

    #[test]
    fn cuda_takes_a_weight_in_chunks() {
        let cuda = Cuda::new(0).unwrap();
        let x: Vec<bf16> = (0..CHUNK + 99).map(|i| bf16::from_f32((i % 777) as f32)).collect();
        let config = QuantConfig { blocksize: 4096, ..QuantConfig::default() };
        check(&cuda, Elements::Bf16(&x), &config);
    }

    #[test]
    fn cuda_names_what_cannot_be_quantised() {
        let cuda = Cuda::new(0).unwrap();
        let config = QuantConfig::default();
        let message = |weight: &[f32], shape: &[usize]| {
            let weight = Elements::F32(weight);
            let error = cuda.quantize("w", weight, shape, &config).unwrap_err();
            assert!(matches!(error, Error::Quantize(_)));
            let expected = weight.quantize("w", shape, &config).unwrap_err();
            assert_eq!(error.to_string(), expected.to_string());
        };
        for (index, bad) in [(0, f32::NAN), (70, f32::INFINITY), (129, f32::NEG_INFINITY)] {
            let mut weight = vec![0.5; 130];
            weight[index] = bad;
            weight[129] = bad;
            message(&weight, &[130]);
        }
        message(&[3.4e38; 128], &[128]);
        message(&[0.5; 4], &[5]);
        message(&[], &[0]);
        assert!(cuda.memory().live.iter().all(|(_, bytes)| *bytes == 0));
    }
}
