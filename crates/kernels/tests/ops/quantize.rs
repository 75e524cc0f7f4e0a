use half::bf16;
use kernels::ops::{Linear, Weight};
use kernels::{Backend, DType, Error};
use nf4::{Elements, QuantConfig, QuantType};

use crate::support::{Host, output};

/// A backend's own blocks restore to what those of the processor restore to.
pub(crate) fn check_quantize<K: Backend>(k: &K, dtype: DType) {
    let [rows, cols] = [401, 13];
    let weight = Host::normal(dtype, 1, rows * cols).f32;
    let narrow: Vec<bf16> = weight.iter().map(|&x| bf16::from_f32(x)).collect();
    let elements = match dtype {
        DType::Bf16 => Elements::Bf16(&narrow),
        _ => Elements::F32(&weight),
    };
    for (quant_type, blocksize, double_quant) in
        [(QuantType::Nf4, 32, true), (QuantType::Nf4, 4096, false), (QuantType::Fp4, 64, true)]
    {
        let config = QuantConfig { quant_type, blocksize, double_quant };
        let own = k.quantize("w", elements, &[rows, cols], &config).unwrap();
        let expected = elements.quantize("w", &[rows, cols], &config).unwrap();
        let restored: Vec<f32> = expected.dequantize();
        assert_eq!(values(k, &own, rows, cols), restored, "{config:?}");
        let taken = k.upload_quantized(expected).unwrap();
        assert_eq!(values(k, &taken, rows, cols), restored, "{config:?}");
    }
    let error = k.quantize("w", elements, &[cols], &QuantConfig::default()).unwrap_err();
    assert!(matches!(error, Error::Quantize(nf4::Error::Shape { .. })), "{error}");
}

/// The weight's values, as products with the rows of the identity, in its own order.
fn values<K: Backend>(k: &K, weight: &K::QuantizedWeight, n: usize, m: usize) -> Vec<f32> {
    let weight = Weight::Quantized(weight);
    let op = Linear { m, n, k: m, weight, bias: None, lora: None };
    let identity = (0..m * m).map(|i| if i % (m + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let mut y = output(k, DType::F32, m * n);
    k.linear(&op, &Host::new(DType::F32, identity).upload(k), &mut y, None).unwrap();
    let y = k.download(&y).unwrap();
    (0..n * m).map(|i| y[i % m * n + i / m]).collect()
}
