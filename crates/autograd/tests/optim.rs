//! The optimizer with 8-bit moments against the same with f32 ones.

use autograd::{
    AdamW, AdamWConfig, FrozenLinear, FrozenWeight, LoraLinear, Param, ParamGrads, ParamId, Params,
    Precision, Tape,
};
use kernels::{Backend, Cpu, DType, HostSlice, MemoryKind, Philox};

const VOCAB: usize = 50;
const HIDDEN: usize = 256;
const TOKENS: u32 = 40;
const CONFIG: AdamWConfig = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

fn normal(cpu: &Cpu, stream: u64, len: usize, scale: f32) -> <Cpu as Backend>::Buffer {
    let philox = Philox::new(42, stream);
    let values: Vec<f32> = (0..len as u64).map(|i| philox.normal(i) * scale).collect();
    cpu.upload(HostSlice::F32(&values), MemoryKind::Weights).unwrap()
}

fn linear(cpu: &Cpu, stream: u64, out_features: usize) -> FrozenLinear<Cpu> {
    let weight = FrozenWeight::Dense(normal(cpu, stream, out_features * HIDDEN, 0.06));
    FrozenLinear { weight, bias: None, in_features: HIDDEN, out_features }
}

fn adapter(cpu: &Cpu, r: usize) -> Params<Cpu> {
    let mut params = Params::default();
    let mut push = |name: &str, shape: [usize; 2], value| {
        params.push(Param { name: name.to_owned(), shape: shape.to_vec(), value })
    };
    push("a", [r, HIDDEN], normal(cpu, 1, r * HIDDEN, 0.06));
    let zeros = cpu.zeros(DType::F32, HIDDEN * r, MemoryKind::Adapters).unwrap();
    push("b", [HIDDEN, r], zeros);
    params
}

/// Losses of 20 steps of an adapter of rank `r` that learns one token by the one before it.
fn losses(r: usize, eight: bool) -> Vec<f64> {
    losses_with(r, eight, false)
}

/// [`losses`], from a new optimizer with the state of the old one in every step, if `restored`.
fn losses_with(r: usize, eight: bool, restored: bool) -> Vec<f64> {
    let cpu = Cpu::new();
    let (body, head) = (linear(&cpu, 2, HIDDEN), linear(&cpu, 3, VOCAB));
    let table = normal(&cpu, 4, VOCAB * HIDDEN, 1.0);
    let ids: Vec<u32> = (0..=TOKENS).map(|i| i * i % VOCAB as u32).collect();
    let upload = |ids: &[u32]| cpu.upload(HostSlice::U32(ids), MemoryKind::Data).unwrap();
    let (inputs, labels) = (upload(&ids[..ids.len() - 1]), upload(&ids[1..]));

    let mut params = adapter(&cpu, r);
    let lora = LoraLinear { a: ParamId(0), b: ParamId(1), r, scale: 1.0 };
    let new = if eight { AdamW::new_8bit } else { AdamW::new };
    let mut optimizer = new(&cpu, &params, CONFIG).unwrap();
    let mut step = |_| {
        let mut grads = ParamGrads::zeros(&cpu, &params).unwrap();
        let mut tape = Tape::training(&cpu, Precision::F32);
        let x = tape.embed(&table, HIDDEN, &inputs).unwrap();
        let y = tape.linear(&x, &body, Some((lora, &params)), None).unwrap();
        let scale = 1.0 / TOKENS as f32;
        let loss = tape.linear_cross_entropy(&y, &head, &labels, scale).unwrap().sum();
        drop(y);
        tape.backward(&mut grads).unwrap();
        if restored {
            let state = optimizer.state(&cpu).unwrap();
            optimizer = new(&cpu, &params, CONFIG).unwrap();
            optimizer.restore(&cpu, &params, &state).unwrap();
            assert_eq!(optimizer.state(&cpu).unwrap(), state);
        }
        optimizer.step(&cpu, &mut params, &grads, 5e-3, 1.0).unwrap();
        loss / f64::from(TOKENS)
    };
    (0..20).map(&mut step).collect()
}

#[test]
fn eight_bit_moments_train_as_f32_ones_do() {
    let (single, eight) = (losses(16, false), losses(16, true));
    assert!(single[19] < 0.5 * single[0], "{single:?}");
    for (step, (single, eight)) in single.iter().zip(&eight).enumerate() {
        assert!((single - eight).abs() < 0.02 * single, "step {step}: {eight} against {single}");
    }
    assert_ne!(single, eight, "the moments are not the same");
}

#[test]
fn small_parameters_keep_f32_moments() {
    assert_eq!(losses(15, false), losses(15, true));
}

#[test]
fn eight_bit_moments_take_a_quarter_of_the_memory() {
    let cpu = Cpu::new();
    let state = || {
        let usage = cpu.memory();
        usage.live.iter().find(|(kind, _)| *kind == MemoryKind::Optimizer).unwrap().1
    };
    let params = adapter(&cpu, 64);
    let single = AdamW::new(&cpu, &params, CONFIG).unwrap();
    let bytes = state();
    assert_eq!(bytes, 8 * params.numel());
    drop(single);
    let eight = AdamW::new_8bit(&cpu, &params, CONFIG).unwrap();
    // Two absmax for each block of 256 elements come on top.
    assert_eq!(state(), bytes / 4 + 8 * params.numel() / 256);
    drop(eight);
    assert_eq!(state(), 0);
}

#[test]
fn a_restored_optimizer_is_the_same_one() {
    for eight in [false, true] {
        assert_eq!(losses_with(16, eight, true), losses(16, eight));
    }
}

#[test]
fn the_state_of_another_optimizer_is_refused() {
    let cpu = Cpu::new();
    let params = adapter(&cpu, 16);
    let single = AdamW::new(&cpu, &params, CONFIG).unwrap();
    let mut eight = AdamW::new_8bit(&cpu, &params, CONFIG).unwrap();
    let state = single.state(&cpu).unwrap();
    let error = eight.restore(&cpu, &params, &state).unwrap_err().to_string();
    assert!(error.contains("`a`"), "{error}");
    let smaller = AdamW::new(&cpu, &adapter(&cpu, 8), CONFIG).unwrap().state(&cpu).unwrap();
    let mut single = single;
    single.restore(&cpu, &params, &smaller).unwrap_err();
    assert_eq!(single.state(&cpu).unwrap(), state, "untouched");
}
