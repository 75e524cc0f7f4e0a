use half::{bf16, f16};

use super::{Kernel, Values, by_thread, check, check_in_process, exact};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    compile::Flavour,
};

const KERNELS: [Kernel; 5] = [
    ("integers", integers),
    ("integers64", integers64),
    ("floats", floats),
    ("doubles", doubles),
    ("halves", halves),
];

#[test]
fn optimised() {
    check("opcodes_arithmetic", Flavour::Optimised, cases);
}

#[test]
fn optimised_in_process() {
    check_in_process("opcodes_arithmetic", Flavour::Optimised, cases);
}

#[test]
fn debug_in_process() {
    check_in_process("opcodes_arithmetic", Flavour::Debug, cases);
}

#[test]
fn debug() {
    check("opcodes_arithmetic", Flavour::Debug, cases);
}

fn cases(inputs: &[u32]) -> Vec<Case> {
    let mut cases = exact(&KERNELS, inputs);
    cases.push(approximations(inputs));
    cases
}

fn integers(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let y = x.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let (sx, sy) = (x as i32, y as i32);
        v.word(x.wrapping_add(y));
        v.word(x.wrapping_sub(y));
        v.word(x.wrapping_mul(y));
        v.word(x / (y | 1));
        v.word(x % (y | 1));
        v.int(sx.wrapping_div(sy | 1));
        v.int(sx.wrapping_rem(sy | 1));
        v.word(((u64::from(x) * u64::from(y)) >> 32) as u32);
        v.int(((i64::from(sx) * i64::from(sy)) >> 32) as i32);
        v.word(x << (y & 31));
        v.word(x >> (y & 31));
        v.int(sx >> (y & 31));
        v.word(!x & (y | 0x0f0f_0f0f));
        v.word(x ^ y);
        v.int(sx.min(sy));
        v.word(x.max(y));
        v.int(sx.wrapping_abs());
        v.word(x.count_ones());
        v.word(x.leading_zeros());
        v.word(if x == 0 { 0 } else { x.trailing_zeros() + 1 });
        v.word(x.reverse_bits());
        let bytes = u64::from(y) << 32 | u64::from(x);
        v.word([5, 7, 1, 3].iter().rev().fold(0, |w, b| w << 8 | (bytes >> (b * 8)) as u32 & 0xff));
        v.word(((bytes << (x & 31)) >> 32) as u32);
        v.word((bytes >> (y & 31)) as u32);
        v.word(x.abs_diff(y).wrapping_add(7));
        let products = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
        v.int(products.fold(5, |sum, (a, b)| sum + i32::from(a as i8) * i32::from(b as i8)));
        v.flag(x == y);
        v.word(if sx < sy { x } else { y });
        v.word(x >> 5 & 0x7ff);
        v.int((x << 16) as i32 >> 21);
        v.word(y & !(0x1fff << 9) | (x & 0x1fff) << 9);
        let c = 0x00ff_00ff;
        v.word(x & y | x & c | y & c);
    })
}

fn integers64(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let a = u64::from(x).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        let b = a >> 17 ^ u64::from(x) << 40;
        let (sa, sb) = (a as i64, b as i64);
        v.long(a.wrapping_add(b));
        v.long(a.wrapping_mul(b));
        v.long(a / (b | 1));
        v.long(a % (b | 1));
        v.long(sa.wrapping_div(sb | 1) as u64);
        v.long(((u128::from(a) * u128::from(b)) >> 64) as u64);
        v.long(((i128::from(sa) * i128::from(sb)) >> 64) as u64);
        v.long(a << (x & 63));
        v.long((sa >> (x & 63)) as u64);
        v.long(sa.min(sb) as u64);
        v.word(a.count_ones());
        v.word(a.leading_zeros());
        v.long(a.reverse_bits());
        v.long(u64::from(x) * u64::from(x | 3));
        v.long((i64::from(x as i32) * -7) as u64);
        let wide = (u128::from(a) * u128::from(b)).wrapping_add(u128::from(a));
        v.long(wide as u64);
        v.long((wide >> 64) as u64);
        v.word(u32::from(x as u8) + u32::from((x >> 3) as u16));
        v.int(i32::from(x as i8) + i32::from((x >> 3) as i16));
    })
}

/// Directions of rounding other than to nearest.
#[derive(Clone, Copy)]
enum Toward {
    Zero,
    Up,
    Down,
}

/// An exact result rounded to f32.
fn rounded(exact: f64, toward: Toward) -> f32 {
    let nearest = exact as f32;
    let wide = f64::from(nearest);
    match toward {
        Toward::Zero if wide.abs() > exact.abs() => {
            if exact > 0.0 {
                nearest.next_down()
            } else {
                nearest.next_up()
            }
        }
        Toward::Up if wide < exact => nearest.next_up(),
        Toward::Down if wide > exact => nearest.next_down(),
        _ => nearest,
    }
}

fn floats(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let (a, b) = (x as i32 as f32 * 1e-6, (x % 1000) as f32 + 0.37);
        let (wide_a, wide_b) = (f64::from(a), f64::from(b));
        v.float(a + b);
        v.float(a * b);
        v.float(a / b);
        v.float(b.sqrt());
        v.float(1.0 / b);
        v.float(a.mul_add(b, 0.1));
        v.float(rounded(wide_a + wide_b, Toward::Zero));
        v.float(rounded(wide_a * wide_b, Toward::Up));
        v.float(rounded(wide_a + wide_b, Toward::Down));
        v.float(a); // the smaller of it and NaN
        v.float(a.max(b));
        v.float(b.copysign(a));
        v.float(a.abs());
        v.float(a.floor());
        v.float(a.ceil());
        v.float(a.round_ties_even());
        v.float(a.trunc());
        v.int(a as i32);
        v.word(0);
        v.int((a * 1e12) as i32);
        v.int(a.round_ties_even() as i32);
        v.long(a.floor() as i64 as u64);
        v.float(x as f32);
        v.float(rounded(f64::from(x), Toward::Zero));
        v.flag(false);
        v.float(a.clamp(0.0, 1.0) + 0.0);
    })
}

fn doubles(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let (a, b) = (f64::from(x as i32) * 1e-3, f64::from(x % 977) + 0.1);
        v.double(a + b);
        v.double(a * b);
        v.double(a / b);
        v.double(b.sqrt());
        v.double(a.mul_add(b, 0.3));
        v.double(a.min(b));
        v.float(a as f32);
        v.double(f64::from(b as f32));
        v.int(a as i32);
        v.long((a * 1e9) as i64 as u64);
        v.double(f64::from(x));
        v.flag(a < b);
        v.double(-a.abs());
        v.double(a.floor());
    })
}

fn halves(inputs: &[u32]) -> Vec<u32> {
    by_thread(|t, v| {
        let x = inputs[t];
        let f = (x % 512) as f32 * 0.03125 - 8.0;
        let g = (x / 512 % 512) as f32 * 0.0625 - 16.0;
        // Both are exact in either type; each operation rounds once.
        two_by_two(v, f, g, |exact| f16::from_f64(exact).to_bits());
        v.flag(f < g);
        v.float(f + g);
        v.int(f.round_ties_even() as i32);
        v.pair([f16::from_f64(f64::from(x % 5000)).to_bits(), f16_toward_zero(f * 0.1).to_bits()]);
        two_by_two(v, f, g, |exact| bf16::from_f64(exact).to_bits());
        v.float(f * 3.0);
        v.pair([bf16::from_f32(f * 0.1).to_bits(), ((g * 0.1).to_bits() >> 16) as u16]);
    })
}

/// The operations on the pairs (f, g) and (g, f).
fn two_by_two(v: &mut Values, f: f32, g: f32, round: fn(f64) -> u16) {
    let (f, g) = (f64::from(f), f64::from(g));
    let mut each = |op: fn(f64, f64) -> f64| v.pair([round(op(f, g)), round(op(g, f))]);
    each(|a, b| a + b);
    each(|a, b| a * b);
    each(|a, b| a * b + a);
    each(|a, b| a - b);
    each(f64::max);
    each(f64::min);
    each(|a, _| -a);
    each(|_, b| b.abs());
}

fn f16_toward_zero(value: f32) -> f16 {
    let nearest = f16::from_f32(value);
    if nearest.to_f32().abs() > value.abs() {
        f16::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

fn approximations(inputs: &[u32]) -> Case {
    let functions: [fn(f64, f64) -> f64; 13] = [
        |a, _| a.exp2(),
        |a, _| a.exp(),
        |a, _| a.exp(),
        |_, b| b.log2(),
        |_, b| b.ln(),
        |a, _| a.sin(),
        |a, _| a.cos(),
        |_, b| 1.0 / b.sqrt(),
        |_, b| 1.0 / b,
        |a, b| a / b,
        |a, _| a.tanh(),
        |a, b| b.powf(a),
        |a, _| a.tanh(),
    ];
    let arguments: Vec<(f64, f64)> = inputs
        .iter()
        .map(|x| {
            let a = (x % 2000) as f32 * 0.004 - 4.0;
            (f64::from(a), f64::from(a.abs() + 0.125))
        })
        .collect();
    let values = |f: fn(f64, f64) -> f64| arguments.iter().map(move |(a, b)| f(*a, *b));
    let truth: Vec<f64> = functions.iter().flat_map(|f| values(*f)).collect();
    // The last one promises eleven bits, the others about twenty.
    let precise = truth.len() - arguments.len();
    let allowed = truth
        .iter()
        .enumerate()
        .map(|(i, v)| if i < precise { 2e-6 * (v.abs() + 1.0) } else { 1e-3 })
        .collect();
    let args = vec![Arg::Buffer(0), Arg::Buffer(1)];
    Case {
        label: "approximations".into(),
        buffers: vec![Buffer::data(inputs), Buffer::output::<f32>(truth.len())],
        launches: vec![Launch::line("approximations", 2, 64, args)],
        expected: vec![(1, Expected::F32(Near::within(truth, allowed)))],
    }
}
