//! Quantising and restoring a 4096 x 4096 weight; rates count bytes of the unquantised
//! elements, in GB/s.
//!
//! `cargo bench --bench nf4`

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use nf4::{Element, QuantConfig, QuantType};

const SHAPE: [usize; 2] = [4096, 4096];
const NUMEL: usize = SHAPE[0] * SHAPE[1];

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// Values like those of a trained weight: bell-shaped, standard deviation 0.02.
fn weight<T: Element>() -> Vec<T> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut bell = || (0..4).map(|_| uniform()).sum::<f32>() * 0.035;
    (0..NUMEL).map(|_| T::from_f32(bell())).collect()
}

fn config(quant_type: QuantType, double_quant: bool) -> QuantConfig {
    QuantConfig { quant_type, double_quant, ..QuantConfig::default() }
}

fn bench_element<T: Element>(group: &mut Group<'_>, config: &QuantConfig, name: &str) {
    let data = weight::<T>();
    group.throughput(Throughput::BytesDecimal(size_of_val(data.as_slice()) as u64));
    group.bench_function(format!("quantize/{name}"), |b| {
        b.iter(|| nf4::quantize("w", black_box(&data), &SHAPE, config));
    });
    let quantized = nf4::quantize("w", &data, &SHAPE, config).expect("finite");
    let mut out = data;
    group.bench_function(format!("dequantize/{name}"), |b| {
        b.iter(|| quantized.dequantize_into(black_box(&mut out)));
    });
}

/// One thread restoring 64 rows again and again, as a matrix product does.
fn bench_range(group: &mut Group<'_>) {
    let quantized = nf4::quantize("w", &weight::<f32>(), &SHAPE, &QuantConfig::default());
    let quantized = quantized.expect("finite");
    let absmax = quantized.restored_absmax();
    let mut out = vec![0.0; 64 * SHAPE[1]];
    group.throughput(Throughput::BytesDecimal(size_of_val(out.as_slice()) as u64));
    group.bench_function("dequantize_range/f32/one thread", |b| {
        b.iter(|| {
            let (packed, out) = (quantized.packed(), black_box(&mut out));
            nf4::dequantize_range(packed, &absmax, QuantType::Nf4, 64, 0, out);
        });
    });
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("nf4");
    group.sample_size(20);
    let plain = config(QuantType::Nf4, false);
    let double = config(QuantType::Nf4, true);
    let fp4 = config(QuantType::Fp4, false);
    bench_element::<f32>(&mut group, &plain, "nf4/f32");
    bench_element::<f32>(&mut group, &double, "nf4/f32/double");
    bench_element::<bf16>(&mut group, &plain, "nf4/bf16");
    bench_element::<bf16>(&mut group, &double, "nf4/bf16/double");
    bench_element::<f16>(&mut group, &plain, "nf4/f16");
    bench_element::<f32>(&mut group, &fp4, "fp4/f32");
    bench_range(&mut group);
    group.finish();
}

criterion_group!(nf4_benches, benches);
criterion_main!(nf4_benches);
