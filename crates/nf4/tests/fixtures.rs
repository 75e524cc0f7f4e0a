//! Every byte that bitsandbytes' CPU backend makes of the inputs in `tests/fixtures/nf4`.

mod common;

use common::{elements, fixture, parse};
use half::{bf16, f16};
use nf4::dynamic8::{self, Rounding};
use nf4::{Absmax, Element, QuantConfig, QuantType, QuantizedTensor};
use safetensors::SafeTensors;
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    cases: std::collections::BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: Vec<usize>,
    dtype: String,
    blocksize: usize,
    quant_type: QuantType,
    nested: bool,
    input: String,
    offset_bits: Option<u32>,
    nested_blocksize: Option<usize>,
}

/// The expected tensors of one case.
struct Expected<'a> {
    name: &'a str,
    tensors: &'a SafeTensors<'a>,
}

impl Expected<'_> {
    fn get<T: bytemuck::AnyBitPattern>(&self, part: &str) -> Vec<T> {
        let name = format!("{}.{part}", self.name);
        elements(&self.tensors.tensor(&name).expect(&name))
    }

    /// Compares bits, so that zeros with different signs differ.
    fn check_f32(&self, part: &str, actual: &[f32]) {
        let bits: Vec<u32> = actual.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, self.get::<u32>(part), "{}.{part}", self.name);
    }

    fn check_restored(&self, quantized: &QuantizedTensor) -> usize {
        let stored = |part: &str| self.tensors.tensor(&format!("{}.{part}", self.name)).is_ok();
        let mut checked = 0;
        if stored("deq_f32") {
            self.check_f32("deq_f32", &quantized.dequantize::<f32>());
            checked += 1;
        }
        if stored("deq_bf16") {
            let actual = quantized.dequantize::<bf16>();
            let bits: Vec<u16> = actual.iter().map(|x| x.to_bits()).collect();
            assert_eq!(bits, self.get::<u16>("deq_bf16"), "{}", self.name);
            checked += 1;
        }
        if stored("deq_f16") {
            let actual = quantized.dequantize::<f16>();
            let bits: Vec<u16> = actual.iter().map(|x| x.to_bits()).collect();
            assert_eq!(bits, self.get::<u16>("deq_f16"), "{}", self.name);
            checked += 1;
        }
        checked
    }

    fn check_scales(&self, quantized: &QuantizedTensor, case: &Case) {
        match quantized.absmax() {
            Absmax::Plain(absmax) => self.check_f32("absmax", absmax),
            Absmax::Nested(nested) => {
                assert_eq!(Some(nested.offset.to_bits()), case.offset_bits, "{}", self.name);
                assert_eq!(Some(nested.blocksize), case.nested_blocksize);
                assert_eq!(nested.codes, self.get::<u8>("qabsmax"), "{}", self.name);
                self.check_f32("nested_absmax", &nested.absmax);
                self.check_f32("absmax_restored", &quantized.restored_absmax());
            }
        }
    }
}

fn quantize<T: Element + bytemuck::AnyBitPattern>(
    name: &str,
    case: &Case,
    tensors: &SafeTensors<'_>,
) -> QuantizedTensor {
    let data: Vec<T> = elements(&tensors.tensor(&case.input).expect(&case.input));
    let config = QuantConfig::new(case.quant_type, case.blocksize, case.nested).expect(name);
    nf4::quantize(name, &data, &case.shape, &config).expect(name)
}

#[test]
fn four_bit_cases_are_bit_exact() {
    let json = fixture("nf4/cases.json");
    let cases: Cases = serde_json::from_slice(&json).expect("cases.json");
    let bytes = fixture("nf4/cases.safetensors");
    let tensors = parse(&bytes);
    let mut restored = 0;
    for (name, case) in &cases.cases {
        let quantized = match case.dtype.as_str() {
            "f32" => quantize::<f32>(name, case, &tensors),
            "bf16" => quantize::<bf16>(name, case, &tensors),
            "f16" => quantize::<f16>(name, case, &tensors),
            other => panic!("{name}: dtype {other}"),
        };
        let expected = Expected { name, tensors: &tensors };
        assert_eq!(quantized.packed(), expected.get::<u8>("packed"), "{name}");
        expected.check_scales(&quantized, case);
        restored += expected.check_restored(&quantized);
    }
    assert_eq!((cases.cases.len(), restored), (33, 28), "cases and restored tensors");
}

#[test]
fn tables_are_bit_exact() {
    let bytes = fixture("nf4/tables.safetensors");
    let tables = parse(&bytes);
    let check = |name: &str, actual: &[f32]| {
        let stored: Vec<u32> = elements(&tables.tensor(name).expect(name));
        let actual: Vec<u32> = actual.iter().map(|x| x.to_bits()).collect();
        assert_eq!(actual, stored, "{name}");
    };
    check("nf4", QuantType::Nf4.values());
    check("fp4", QuantType::Fp4.values());
    check("dynamic_signed_256", dynamic8::map());
    check("dynamic_unsigned_256", dynamic8::unsigned_map());
}

#[test]
fn eight_bit_cases_are_bit_exact() {
    let bytes = fixture("nf4/cases.safetensors");
    let tensors = parse(&bytes);
    for name in ["dyn8_f32_1000_bs256", "dyn8_bf16_513_bs256", "dyn8_f32_zero"] {
        let expected = Expected { name, tensors: &tensors };
        let input: Vec<f32> = if name.contains("bf16") {
            expected.get::<bf16>("input").iter().map(|x| x.to_f32()).collect()
        } else {
            expected.get("input")
        };
        let table = dynamic8::quantize(&input, 256, Rounding::Table);
        assert_eq!(table.codes, expected.get::<u8>("q_bnb_cpu"), "{name}");
        expected.check_f32("absmax", &table.absmax);
        let nearest = dynamic8::quantize(&input, 256, Rounding::Nearest);
        assert_eq!(nearest.codes, expected.get::<u8>("q_exact"), "{name}");
        expected.check_f32("absmax", &nearest.absmax);
    }
}

#[test]
fn eight_bit_ties_take_the_lower_code() {
    let bytes = fixture("nf4/cases.safetensors");
    let tensors = parse(&bytes);
    let expected = Expected { name: "dyn8_ties", tensors: &tensors };
    let midpoints: Vec<f32> = expected.get("input");
    let table = dynamic8::quantize(&midpoints, 256, Rounding::Table);
    assert_eq!(table.codes, expected.get::<u8>("q_bnb_cpu"));
    let nearest = dynamic8::quantize(&midpoints, 256, Rounding::Nearest);
    assert_eq!(nearest.codes, (0..=255).collect::<Vec<u8>>());
}

/// Codes of `F.quantize_blockwise`, bitsandbytes 0.50.2, CPU.
#[test]
fn eight_bit_blocks_of_tiny_values_follow_bitsandbytes() {
    let codes = |m: f32, rounding| {
        let mut block = [0.0; 256];
        block[..5].copy_from_slice(&[m, -m, m / 2.0, 0.0, -m / 3.0]);
        dynamic8::quantize(&block, 256, rounding).codes[..6].to_vec()
    };
    assert_eq!(codes(5e-39, Rounding::Table), [255, 0, 219, 131, 47, 131]);
    assert_eq!(codes(2.5e-39, Rounding::Table), [255, 0, 255, 0, 0, 0]);
    assert_eq!(codes(0.0, Rounding::Table), [0; 6]);
    assert_eq!(codes(0.0, Rounding::Nearest), [127; 6]);
}
