//! Laws of the number formats, on generated weights of any size.

use std::collections::HashMap;

use half::{bf16, f16};
use nf4::dynamic8::{self, Rounding};
use nf4::moment8::{self, MomentMap};
use nf4::{Absmax, BLOCKSIZES, Element, Error, QuantConfig, QuantType, QuantizedTensor, state};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Largest half distance between neighbouring values, in units of absmax.
fn largest_half_gap(quant_type: QuantType) -> f32 {
    let mut values = *quant_type.values();
    values.sort_by(f32::total_cmp);
    let gaps = values.windows(2).map(|pair| (pair[1] - pair[0]) / 2.0);
    gaps.fold(0.0, f32::max)
}

fn quant_types() -> impl Strategy<Value = QuantType> {
    select(vec![QuantType::Nf4, QuantType::Fp4])
}

fn blocksizes() -> impl Strategy<Value = usize> {
    select(BLOCKSIZES.to_vec())
}

fn element() -> impl Strategy<Value = f32> {
    prop_oneof![8 => -1.0_f32..1.0, 1 => Just(0.0)]
}

/// Weights of a few small blocks or a few large ones, ragged, with zeros, at any ordinary scale.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let data = prop_oneof![3 => vec(element(), 1..900), 1 => vec(element(), 4_000..9_000)];
    (data, -20..20_i32)
        .prop_map(|(data, power)| data.iter().map(|x| x * 2.0_f32.powi(power)).collect())
}

/// Weights whose blocks of 32 fill several nested blocks (of 256), each at a scale of its own.
fn nested_blocks() -> impl Strategy<Value = Vec<f32>> {
    let scaled = |(i, x): (usize, f32)| x * 4.0_f32.powi((i / (32 * 256)) as i32);
    vec(element(), 20_000..30_000)
        .prop_map(move |x| x.into_iter().enumerate().map(scaled).collect())
}

/// A block size, and elements of at most one block.
fn one_block() -> impl Strategy<Value = (usize, Vec<f32>)> {
    blocksizes().prop_flat_map(|blocksize| (Just(blocksize), vec(-1.0_f32..1.0, 1..=blocksize)))
}

fn quantize<T: Element>(
    data: &[T],
    quant_type: QuantType,
    blocksize: usize,
    double_quant: bool,
) -> QuantizedTensor {
    let config = QuantConfig::new(quant_type, blocksize, double_quant).expect("valid");
    nf4::quantize("w", data, &[data.len()], &config).expect("finite")
}

fn codes(tensor: &QuantizedTensor) -> Vec<u8> {
    let nibbles = tensor.packed().iter().flat_map(|b| [b >> 4, b & 15]);
    nibbles.take(tensor.numel()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Codes, absmax and restored values of one block.
fn through(map: &MomentMap, block: &[f32]) -> (Vec<u8>, f32, Vec<f32>) {
    let (mut codes, mut restored) = (vec![0; block.len()], vec![f32::NAN; block.len()]);
    let absmax = map.quantize(block, &mut codes);
    map.dequantize(&codes, absmax, &mut restored);
    (codes, absmax, restored)
}

fn pool(threads: usize) -> rayon::ThreadPool {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads")
}

proptest! {
    #[test]
    fn error_is_at_most_half_a_gap(data in weights(), quant_type in quant_types(), blocksize in blocksizes()) {
        let tensor = quantize(&data, quant_type, blocksize, false);
        let restored: Vec<f32> = tensor.dequantize();
        let bound = largest_half_gap(quant_type) * (1.0 + 1e-6);
        let blocks = data.chunks(blocksize).zip(restored.chunks(blocksize));
        for ((block, restored), absmax) in blocks.zip(&*tensor.restored_absmax()) {
            for (x, y) in block.iter().zip(restored) {
                prop_assert!((x - y).abs() <= bound * absmax, "{x} -> {y}, absmax {absmax}");
            }
        }
    }

    /// Restored values quantise to themselves: a block's largest value is `absmax` itself, so the
    /// scale comes back, and a code's value is far from the thresholds around it. This needs an
    /// `absmax` of 1e-38 or more, below which the reciprocal is clamped. FP4's second zero (code 8)
    /// comes back as code 0, so values are compared, and codes for NF4 only.
    #[test]
    fn quantising_restored_values_changes_nothing(data in weights(), quant_type in quant_types(), blocksize in blocksizes()) {
        let first = quantize(&data, quant_type, blocksize, false);
        let second = quantize(&first.dequantize::<f32>(), quant_type, blocksize, false);
        prop_assert_eq!(second.absmax(), first.absmax());
        prop_assert_eq!(second.dequantize::<f32>(), first.dequantize::<f32>());
        if quant_type == QuantType::Nf4 {
            prop_assert_eq!(second.packed(), first.packed());
        }
    }

    /// The same through bf16: `absmax` is a bf16 value already, and half a bf16 step is far less
    /// than half a gap.
    #[test]
    fn bf16_is_wide_enough_to_restore_into(data in weights(), blocksize in blocksizes()) {
        let data: Vec<bf16> = data.iter().map(|x| bf16::from_f32(*x)).collect();
        let first = quantize(&data, QuantType::Nf4, blocksize, false);
        let second = quantize(&first.dequantize::<bf16>(), QuantType::Nf4, blocksize, false);
        prop_assert_eq!(second, first);
    }

    /// Whatever way the processor looks codes up, a restored element is the f32 product, rounded once.
    #[test]
    fn narrow_elements_are_rounded_products(data in weights(), quant_type in quant_types(), blocksize in blocksizes(), double_quant: bool) {
        let tensor = quantize(&data, quant_type, blocksize, double_quant);
        let wide: Vec<f32> = tensor.dequantize();
        let words = |x: &f32| (bf16::from_f32(*x).to_bits(), f16::from_f32(*x).to_bits());
        let expected: Vec<_> = wide.iter().map(words).collect();
        let narrow = tensor.dequantize::<bf16>().into_iter().zip(tensor.dequantize::<f16>());
        let found: Vec<_> = narrow.map(|(a, b)| (a.to_bits(), b.to_bits())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn powers_of_two_scale_absmax_only(data in weights(), quant_type in quant_types(), blocksize in blocksizes(), power in -30..30_i32) {
        let factor = 2.0_f32.powi(power);
        let scaled: Vec<f32> = data.iter().map(|x| x * factor).collect();
        let [before, after] = [&data, &scaled].map(|x| quantize(x, quant_type, blocksize, false));
        prop_assert_eq!(after.packed(), before.packed());
        // The last block stores at least 1e-38, even if it is zero.
        let expected = before.restored_absmax().iter().map(|x| if *x > 1e-38 { x * factor } else { *x }).collect::<Vec<_>>();
        prop_assert_eq!(&*after.restored_absmax(), expected);
    }

    #[test]
    fn larger_elements_never_get_smaller_values((blocksize, mut data) in one_block(), quant_type in quant_types()) {
        data.sort_by(f32::total_cmp);
        let restored: Vec<f32> = quantize(&data, quant_type, blocksize, false).dequantize();
        prop_assert!(restored.is_sorted(), "{restored:?}");
    }

    #[test]
    fn packed_bytes_hold_the_codes_in_order(data in weights()) {
        let tensor = quantize(&data, QuantType::Nf4, 64, false);
        prop_assert_eq!(tensor.packed().len(), data.len().div_ceil(2));
        let absmax = tensor.restored_absmax();
        let values = QuantType::Nf4.values();
        let decoded: Vec<f32> = codes(&tensor).iter().enumerate().map(|(i, code)| values[*code as usize] * absmax[i / 64]).collect();
        prop_assert_eq!(bits(&decoded), bits(&tensor.dequantize::<f32>()));
        if data.len() % 2 == 1 {
            prop_assert_eq!(tensor.packed()[data.len() / 2] & 15, 7, "padded with the code of zero");
        }
    }

    #[test]
    fn stored_tensors_give_the_weight_back(data in weights(), quant_type in quant_types(), blocksize in blocksizes(), double_quant: bool) {
        let tensor = quantize(&data, quant_type, blocksize, double_quant);
        let stored: HashMap<_, _> = state::to_tensors(&tensor, "m").into_iter().collect();
        let back = state::from_tensors("m", |key| stored.get(key).cloned()).expect("readable");
        prop_assert_eq!(&back, &tensor);
    }

    #[test]
    fn any_range_is_restored_alone(data in weights(), blocksize in blocksizes(), from in 0.0..1.0_f64, to in 0.0..1.0_f64) {
        let tensor = quantize(&data, QuantType::Nf4, blocksize, false);
        let whole: Vec<f32> = tensor.dequantize();
        let at = |share: f64| (share * data.len() as f64) as usize;
        let (start, end) = (at(from.min(to)), at(from.max(to)));
        let mut part = vec![f32::NAN; end - start];
        nf4::dequantize_range(tensor.packed(), &tensor.restored_absmax(), QuantType::Nf4, blocksize, start, &mut part);
        prop_assert_eq!(bits(&part), bits(&whole[start..end]));
    }

    #[test]
    fn eight_bit_codes_are_nearest(data in weights()) {
        let map = dynamic8::map();
        let quantized = dynamic8::quantize(&data, 256, Rounding::Nearest);
        for (i, (x, code)) in data.iter().zip(&quantized.codes).enumerate() {
            let absmax = quantized.absmax[i / 256];
            if absmax == 0.0 {
                prop_assert_eq!(map[*code as usize], 0.0);
                continue;
            }
            let scaled = f64::from(*x) / f64::from(absmax);
            let error = |value: &f32| (scaled - f64::from(*value)).abs();
            let least = map.iter().map(error).fold(f64::INFINITY, f64::min);
            // Between two values the code follows the f32 product of `x` and a reciprocal, and an f32 midpoint.
            let rounding = 4.0 * f64::from(f32::EPSILON) * scaled.abs();
            prop_assert!(error(&map[*code as usize]) <= least + rounding, "{x} / {absmax}");
        }
    }

    #[test]
    fn moments_come_back_close_and_with_their_sign(data in weights()) {
        let squares: Vec<f32> = data.iter().map(|x| x * x).collect();
        // Half the widest gap of each map, and two roundings.
        for (map, data, half_gap) in [(moment8::first(), &data, 0.00704), (moment8::second(), &squares, 0.00353)] {
            for block in data.chunks(moment8::BLOCK) {
                let (codes, absmax, restored) = through(map, block);
                prop_assert_eq!(absmax, block.iter().fold(1e-38, |max: f32, x| max.max(x.abs())));
                for ((x, y), code) in block.iter().zip(&restored).zip(&codes) {
                    prop_assert!((x - y).abs() <= half_gap * absmax, "{x} -> {y}, absmax {absmax}");
                    prop_assert_eq!(*x < 0.0, *y < 0.0, "{} -> {}", x, y);
                    if *x != 0.0 {
                        let nearest = dynamic8::quantize(&[*x, absmax], 2, Rounding::Nearest).codes[0];
                        let expected = if *x < 0.0 { nearest.min(126) } else { nearest };
                        prop_assert!(map.values()[0] == 0.0 || *code == expected, "{x} / {absmax}");
                    }
                }
            }
        }
    }

    /// Where the largest magnitude is positive: there is no code for -absmax.
    #[test]
    fn quantising_restored_moments_changes_nothing(data in vec(element(), 1..=moment8::BLOCK)) {
        let mut data = data;
        data[0] = 1.0;
        for (map, data) in [(moment8::first(), data.clone()), (moment8::second(), data.iter().map(|x| x.abs()).collect())] {
            let (codes, absmax, restored) = through(map, &data);
            let (again, absmax_again, _) = through(map, &restored);
            prop_assert_eq!((again, absmax_again), (codes, absmax));
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even(x: u32) {
        let x = f32::from_bits(x);
        let (ours, reference) = (<bf16 as Element>::from_f32(x), bf16::from_f32(x));
        prop_assert!(ours.to_bits() == reference.to_bits() || (ours.is_nan() && reference.is_nan()));
        prop_assert_eq!(Element::to_f32(ours).to_bits(), reference.to_f32().to_bits());
    }

    #[test]
    fn the_first_element_that_is_not_finite_is_named(
        mut data in weights(),
        at in 0.0..1.0_f64,
        bad in select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ) {
        let index = (at * data.len() as f64) as usize;
        data[index] = bad;
        *data.last_mut().expect("not empty") = bad;
        let error = nf4::quantize("blk.w", &data, &[data.len()], &QuantConfig::default());
        match error.expect_err("not finite") {
            Error::NonFinite { name, index: found, value } => {
                prop_assert_eq!((name.as_str(), found), ("blk.w", index));
                prop_assert_eq!(value.to_bits(), bad.to_bits());
            }
            other => prop_assert!(false, "{other}"),
        }
    }
}

proptest! {
    // Each case is large.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Half the largest gap of the map (0.00703), half a step of the table (7.7e-6) on either side
    /// of it, and f32 rounding of the sum with the offset.
    #[test]
    fn nested_scales_are_close(data in nested_blocks()) {
        let plain = quantize(&data, QuantType::Nf4, 32, false);
        let nested = quantize(&data, QuantType::Nf4, 32, true);
        prop_assert_eq!(nested.packed(), plain.packed());
        let Absmax::Nested(scales) = nested.absmax() else { panic!("double quantisation was on") };
        prop_assert!(scales.absmax.len() > 2, "several nested blocks");
        for (i, (x, y)) in plain.restored_absmax().iter().zip(&*nested.restored_absmax()).enumerate() {
            let bound = scales.absmax[i / scales.blocksize] * 0.00705 + x.abs().max(scales.offset) * 3e-7;
            prop_assert!((x - y).abs() <= bound, "{x} -> {y}");
        }
    }
}

#[test]
fn threads_do_not_change_the_result() {
    // Several tasks, the last one ragged.
    let data: Vec<f32> = (0..200_003).map(|i| (i as f32 * 0.77).sin()).collect();
    let run = |threads| {
        pool(threads).install(|| {
            let tensor = quantize(&data, QuantType::Nf4, 64, true);
            let restored = bits(&tensor.dequantize::<f32>());
            (tensor, restored)
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn the_lowest_bad_index_wins_over_all_threads() {
    let mut data = vec![0.5_f32; 200_000];
    for index in [199_999, 150_000, 70_001] {
        data[index] = f32::NAN;
    }
    for threads in [1, 2] {
        let run = || nf4::quantize("w", &data, &[200, 1000], &QuantConfig::default());
        let error = pool(threads).install(run).expect_err("not finite");
        assert!(matches!(error, Error::NonFinite { index: 70_001, .. }), "{error}");
    }
}

#[test]
fn bad_shapes_and_block_sizes_are_errors() {
    let message = |data: &[f32], shape: &[usize], blocksize| {
        let config = QuantConfig { blocksize, ..QuantConfig::default() };
        nf4::quantize("w", data, shape, &config).expect_err("invalid").to_string()
    };
    let expected = "tensor `w`: shape [2, 3] does not hold 4 elements";
    assert_eq!(message(&[0.0; 4], &[2, 3], 64), expected);
    assert_eq!(message(&[], &[0, 3], 64), "tensor `w` has no elements (shape [0, 3])");
    assert!(message(&[0.0; 4], &[usize::MAX, 2], 64).contains("does not hold 4 elements"));
    for blocksize in [0, 16, 48, 63, 8192] {
        assert!(message(&[0.0; 4], &[4], blocksize).contains("is not supported; use one of"));
        assert!(QuantConfig::new(QuantType::Nf4, blocksize, true).is_err());
    }
}

#[test]
fn overflowing_double_quantisation_is_an_error() {
    let data = [3.4e38_f32; 128];
    let error = nf4::quantize("w", &data, &[128], &QuantConfig::default());
    assert!(matches!(error, Err(Error::OffsetOverflow { name }) if name == "w"));
}

#[test]
fn midpoints_lie_between_ascending_values() {
    for quant_type in [QuantType::Nf4, QuantType::Fp4] {
        let mut codes = quant_type.ascending();
        let values = codes.map(|code| quant_type.values()[usize::from(code)]);
        for (pair, midpoint) in values.windows(2).zip(quant_type.midpoints()) {
            assert_eq!(*midpoint, f32::midpoint(pair[0], pair[1]));
            assert!(pair[0] <= pair[1]);
        }
        codes.sort_unstable();
        assert_eq!(codes, std::array::from_fn(|i| i as u8));
    }
}

#[test]
fn every_value_of_a_moment_map_has_its_code() {
    for map in [moment8::first(), moment8::second()] {
        let codes: Vec<u8> = map.values().iter().map(|x| map.code(*x)).collect();
        assert_eq!(codes, (0..=255).collect::<Vec<u8>>());
    }
    let zero = moment8::first().code(0.0);
    assert_eq!((zero, moment8::second().code(0.0)), (127, 0));
    let least = f32::from_bits(1);
    assert_eq!(moment8::first().code(least), zero);
    assert_eq!(moment8::first().code(-0.0), zero);
    assert_eq!(moment8::first().code(-least), zero - 1, "the sign is kept");
}

#[test]
fn moments_of_nothing_are_zero() {
    for map in [moment8::first(), moment8::second()] {
        for block in [&[0.0; 3][..], &[]] {
            let (_, absmax, restored) = through(map, block);
            assert_eq!((absmax, restored), (1e-38, block.to_vec()));
        }
    }
}

#[test]
fn a_weight_takes_little_more_than_half_a_byte_per_element() {
    let data = vec![0.1_f32; 1 << 20];
    let bits_per_element = |double_quant| {
        let tensor = quantize(&data, QuantType::Nf4, 64, double_quant);
        8.0 * tensor.bytes() as f64 / data.len() as f64
    };
    assert_eq!(bits_per_element(false), 4.5);
    assert!((bits_per_element(true) - 4.127).abs() < 1e-3);
}

proptest! {
    /// A tensor of zeros is laid out as one that was quantised.
    #[test]
    fn zeros_take_what_values_take(
        rows in 1..40_usize,
        cols in 1..300_usize,
        log2_block in 5..13_u32,
        double_quant in any::<bool>(),
    ) {
        let config = QuantConfig::new(QuantType::Nf4, 1 << log2_block, double_quant).unwrap();
        let shape = [rows, cols];
        let zeros = QuantizedTensor::zeros("w", &shape, &config).unwrap();
        let values = nf4::quantize("w", &vec![0.25_f32; rows * cols], &shape, &config).unwrap();
        prop_assert_eq!(zeros.bytes(), values.bytes());
        prop_assert_eq!(zeros.packed().len(), values.packed().len());
        prop_assert_eq!(zeros.shape(), values.shape());
        prop_assert!(zeros.dequantize::<f32>().iter().all(|x| *x == 0.0));
    }
}
