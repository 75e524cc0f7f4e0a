//! The tape over a small network that uses every operation: gradients against finite differences,
//! recompute against keeping, errors.

use std::sync::Arc;

use autograd::{
    AdamW, AdamWConfig, AdaptedLinear, Error, FrozenLinear, FrozenWeight, LoraLinear, Param,
    ParamGrads, Params, Precision, Tape, Tensor, Var, clip_factor,
};
use kernels::ops::{Activation, Attention, Dropout, IGNORE, RopeTable, Sequences};
use kernels::{Backend, Cpu, DType, HostSlice, MemoryKind, Philox};

const VOCAB: usize = 11;
const HIDDEN: usize = 12;
const HEADS: usize = 3;
const HEAD_DIM: usize = 4;
const R: usize = 2;
const IDS: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];
/// Two sequences, of 4 and 3 tokens; one label in the middle is not trained.
const LABELS: [u32; 7] = [1, IGNORE, 1, IGNORE, 9, 2, IGNORE];

/// Bits of what is kept: every operation of a block, and the blocks alone.
const ALL: u32 = (1 << 11) - 1;
const BLOCKS: u32 = 1 << 10;
/// Linears of one input as one operation, of which the first one's bit counts.
const TOGETHER: u32 = 1 << 11;

struct Network {
    cpu: Cpu,
    table: <Cpu as Backend>::Buffer,
    norm: <Cpu as Backend>::Buffer,
    linears: Vec<FrozenLinear<Cpu>>,
    loras: Vec<LoraLinear>,
    ids: <Cpu as Backend>::Buffer,
    labels: <Cpu as Backend>::Buffer,
    positions: Arc<<Cpu as Backend>::Buffer>,
    sequences: Arc<Sequences<Cpu>>,
    rope: Arc<RopeTable<Cpu>>,
}

fn normal(stream: u64, len: usize, scale: f32) -> Vec<f32> {
    let philox = Philox::new(42, stream);
    (0..len as u64).map(|i| philox.normal(i) * scale).collect()
}

fn up(cpu: &Cpu, values: &[f32]) -> <Cpu as Backend>::Buffer {
    cpu.upload(HostSlice::F32(values), MemoryKind::Weights).unwrap()
}

fn ints(cpu: &Cpu, values: &[u32]) -> <Cpu as Backend>::Buffer {
    cpu.upload(HostSlice::U32(values), MemoryKind::Data).unwrap()
}

fn network() -> (Network, Params<Cpu>) {
    let cpu = Cpu::new();
    let mut params = Params::default();
    let (mut linears, mut loras) = (Vec::new(), Vec::new());
    // q, k, v, gate, up, down and the head; the head has no adapter.
    for (i, n) in [HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, VOCAB].into_iter().enumerate() {
        let stream = 10 * i as u64;
        linears.push(FrozenLinear {
            weight: FrozenWeight::Dense(up(&cpu, &normal(stream, n * HIDDEN, 0.4))),
            bias: (i == 0).then(|| up(&cpu, &normal(stream + 1, n, 0.2))),
            in_features: HIDDEN,
            out_features: n,
        });
        let mut push = |shape: [usize; 2], stream| {
            let value = up(&cpu, &normal(stream, shape[0] * shape[1], 0.3));
            params.push(Param { name: format!("p{stream}"), shape: shape.to_vec(), value })
        };
        if n == HIDDEN {
            let (a, b) = (push([R, HIDDEN], stream + 2), push([n, R], stream + 3));
            loras.push(LoraLinear { a, b, r: R, scale: 1.5 });
        }
    }
    let angles = |f: fn(f32) -> f32| -> Vec<f32> {
        (0..4).flat_map(|p| [1.0, 0.1].map(|w| f(p as f32 * w))).collect()
    };
    let network = Network {
        table: up(&cpu, &normal(100, VOCAB * HIDDEN, 1.0)),
        norm: up(&cpu, &normal(101, HIDDEN, 1.0)),
        linears,
        loras,
        ids: ints(&cpu, &IDS),
        labels: ints(&cpu, &LABELS),
        positions: Arc::new(ints(&cpu, &[0, 1, 2, 3, 0, 1, 2])),
        sequences: Arc::new(Sequences {
            q_start: ints(&cpu, &[0, 4, 7]),
            k_start: ints(&cpu, &[0, 4]),
            k_len: ints(&cpu, &[4, 3]),
            count: 2,
            q_tokens: 7,
            k_tokens: 7,
            max_q: 4,
            max_k: 4,
        }),
        rope: Arc::new(RopeTable {
            cos: up(&cpu, &angles(f32::cos)),
            sin: up(&cpu, &angles(f32::sin)),
            positions: 4,
        }),
        cpu,
    };
    (network, params)
}

fn linear<'m>(
    tape: &mut Tape<'m, Cpu>,
    x: &Var<Cpu>,
    adapted: AdaptedLinear<'m, Cpu>,
    keep: bool,
) -> Var<Cpu> {
    let AdaptedLinear { linear, adapter, dropout } = adapted;
    tape.keep(keep);
    tape.linear(x, linear, adapter, dropout).unwrap()
}

impl Network {
    /// Sum of losses; on a recording tape its gradient is seeded.
    fn run<'m>(&'m self, tape: &mut Tape<'m, Cpu>, params: &'m Params<Cpu>, kept: u32) -> f64 {
        let mut x = tape.embed(&self.table, HIDDEN, &self.ids).unwrap();
        // Twice the same block: its parameters and its input are used more than once.
        for pass in 0..2 {
            x = self.block(tape, params, &x, pass, kept).unwrap();
        }
        tape.linear_cross_entropy(&x, &self.linears[6], &self.labels, 1.0).unwrap().sum()
    }

    fn block<'m>(
        &'m self,
        tape: &mut Tape<'m, Cpu>,
        params: &'m Params<Cpu>,
        x: &Var<Cpu>,
        pass: u64,
        kept: u32,
    ) -> autograd::Result<Var<Cpu>> {
        let set = |tape: &mut Tape<'m, Cpu>, bit: u32| tape.keep(kept >> bit & 1 == 1);
        set(tape, 0);
        let h = tape.rms_norm(x, &self.norm, 1e-5)?;
        let adapted = |i: usize| AdaptedLinear {
            linear: &self.linears[i],
            adapter: Some((self.loras[i], params)),
            dropout: Some(Dropout { p: 0.25, key: 5, stream: pass * 16 + i as u64 }),
        };
        let [q, k, v] = if kept & TOGETHER != 0 {
            set(tape, 1);
            tape.linears(&h, [0, 1, 2].map(adapted))?
        } else {
            [0, 1, 2].map(|i| linear(tape, &h, adapted(i), kept >> (1 + i) & 1 == 1))
        };
        set(tape, 5);
        let q = tape.rope(q, HEAD_DIM, &self.rope, &self.positions)?;
        set(tape, 6);
        let k = tape.rope(k, HEAD_DIM, &self.rope, &self.positions)?;
        let op = Attention {
            heads: HEADS,
            kv_heads: HEADS,
            head_dim: HEAD_DIM,
            scale: 0.5,
            window: None,
            softcap: None,
        };
        set(tape, 7);
        let o = tape.attention(op, &self.sequences, &q, &k, &v)?;
        let keeps = [8, 9].map(|bit| kept >> bit & 1 == 1);
        let (x, h) = tape.add_rms_norm(x, &o, &self.norm, 1e-5, keeps)?;
        set(tape, 4);
        let y = tape.mlp(Activation::Silu, &h, [3, 4].map(adapted), adapted(5))?;
        set(tape, 10);
        tape.add(&x, &y)
    }

    fn gradients(
        &self,
        params: &Params<Cpu>,
        kept: u32,
        precision: Precision,
    ) -> (f64, Vec<Vec<f32>>) {
        let mut grads = ParamGrads::zeros(&self.cpu, params).unwrap();
        let mut tape = Tape::training(&self.cpu, precision);
        let loss = self.run(&mut tape, params, kept);
        tape.backward(&mut grads).unwrap();
        let list = grads.buffers().iter().map(|g| self.cpu.download(g).unwrap()).collect();
        (loss, list)
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let (network, mut params) = network();
    let (_, grads) = network.gradients(&params, ALL, Precision::F32);
    let start: Vec<Vec<f32>> =
        params.iter().map(|p| network.cpu.download(&p.value).unwrap()).collect();
    for which in 0..params.len() {
        let direction = normal(1000 + which as u64, start[which].len(), 1.0);
        let mut at = |step: f32| {
            let moved: Vec<f32> =
                start[which].iter().zip(&direction).map(|(x, d)| x + step * d).collect();
            params.iter_mut().nth(which).unwrap().value = up(&network.cpu, &moved);
            // Dropout is drawn on recording tapes only, so the loss must come from one.
            network.run(&mut Tape::training(&network.cpu, Precision::F32), &params, ALL)
        };
        let step = 1e-2;
        let (near, far) = (
            (at(step) - at(-step)) / (2.0 * step as f64),
            (at(2.0 * step) - at(-2.0 * step)) / (4.0 * step as f64),
        );
        let numeric = (4.0 * near - far) / 3.0;
        at(0.0);
        let analytic: f64 =
            grads[which].iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        let scale = grads[which].iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        assert!(scale > 1e-3, "parameter {which} has no gradient to speak of");
        let error = (numeric - analytic).abs() / scale;
        assert!(error < 2e-3, "parameter {which}: {analytic} against {numeric}");
    }
}

#[test]
fn two_losses_of_one_hidden_state_add_up() {
    let (network, params) = network();
    let (cpu, head) = (&network.cpu, &network.linears[6]);
    // The labels of the even and of the odd tokens.
    let half = |odd: usize| {
        let keep = |(i, label): (usize, &u32)| if i % 2 == odd { *label } else { IGNORE };
        ints(cpu, &LABELS.iter().enumerate().map(keep).collect::<Vec<_>>())
    };
    let gradients = |labels: &[&<Cpu as Backend>::Buffer]| -> Vec<f32> {
        let mut grads = ParamGrads::zeros(cpu, &params).unwrap();
        let mut tape = Tape::training(cpu, Precision::F32);
        let x = tape.embed(&network.table, HIDDEN, &network.ids).unwrap();
        let x = network.block(&mut tape, &params, &x, 0, ALL).unwrap();
        for labels in labels {
            tape.linear_cross_entropy(&x, head, labels, 1.0).unwrap();
        }
        drop(x);
        tape.backward(&mut grads).unwrap();
        grads.buffers().iter().flat_map(|g| cpu.download(g).unwrap()).collect()
    };
    let (even, odd) = (half(0), half(1));
    let (whole, parts) = (gradients(&[&network.labels]), gradients(&[&even, &odd]));
    let scale = whole.iter().fold(0f32, |max, x| max.max(x.abs()));
    assert!(whole.iter().zip(&parts).all(|(a, b)| (a - b).abs() <= 1e-5 * scale));
    for part in [&even, &odd] {
        let part = gradients(&[part]);
        assert!(whole.iter().zip(&part).any(|(a, b)| (a - b).abs() > 1e-2 * scale));
    }
}

#[test]
fn what_is_kept_changes_no_bit() {
    let (network, params) = network();
    for precision in [Precision::F32, Precision::BF16] {
        let whole = network.gradients(&params, ALL, precision);
        let single = (0..11).flat_map(|bit| [1 << bit, ALL ^ (1 << bit)]);
        for kept in single.chain([0, BLOCKS, 0b010_1010_1010, 0b101_0101_0101]) {
            assert!(whole == network.gradients(&params, kept, precision), "{kept:#b}");
        }
    }
}

#[test]
fn linears_of_one_input_are_those_of_one_each() {
    // Queries and keys with what is made of them.
    let (q_k_v, mlp) = (0b110_1110, 0b001_0000);
    let of = |kept| {
        let (network, params) = network();
        let results = network.gradients(&params, kept, Precision::F32);
        let usage = network.cpu.memory();
        (results, usage.flops, usage.peak)
    };
    for apart in [ALL, BLOCKS, ALL ^ q_k_v, ALL ^ mlp, BLOCKS | q_k_v, BLOCKS | mlp] {
        let (expected, flops, peak) = of(apart);
        let (results, flops_together, peak_together) = of(apart | TOGETHER);
        assert_eq!(expected.0, results.0, "{apart:#b}: losses");
        for (expected, result) in expected.1.iter().zip(&results.1) {
            let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
            let mut pairs = expected.iter().zip(result);
            // The gradient of the input is summed in another order.
            assert!(pairs.all(|(a, b)| (a - b).abs() <= 1e-5 * scale), "{apart:#b}: gradients");
        }
        assert_eq!(flops, flops_together, "{apart:#b}: each is made again once");
        assert!(peak_together <= peak, "{apart:#b}: {peak_together} of {peak}");
    }
}

#[test]
fn what_nobody_else_holds_is_rotated_in_place() {
    let (network, _) = network();
    let (cpu, tokens) = (&network.cpu, IDS.len());
    let values = normal(3, tokens * HIDDEN, 1.0);
    let rotated = |hold: bool| {
        let x = Var::constant(Tensor::new(up(cpu, &values), &[tokens, HIDDEN]));
        let held = hold.then(|| x.clone());
        let mut tape = Tape::inference(cpu, Precision::F32);
        let y = tape.rope(x, HEAD_DIM, &network.rope, &network.positions).unwrap();
        let (copied, _) = live(&network);
        if let Some(held) = held {
            assert_eq!(cpu.download(held.tensor().buffer()).unwrap(), values);
        }
        (cpu.download(y.tensor().buffer()).unwrap(), copied)
    };
    let (in_place, nothing) = rotated(false);
    let (beside, copied) = rotated(true);
    assert_ne!(in_place, values);
    assert_eq!(in_place, beside);
    assert_eq!((nothing, copied), (0, 4 * values.len()));
}

/// Bytes of activations, and the most bytes at once.
fn live(network: &Network) -> (usize, usize) {
    let usage = network.cpu.memory();
    let activations = usage.live.iter().find(|(kind, _)| *kind == MemoryKind::Activations);
    (activations.expect("every kind is listed").1, usage.peak)
}

#[test]
fn what_is_not_kept_is_not_held() {
    let held = |kept| {
        let (network, params) = network();
        let mut grads = ParamGrads::zeros(&network.cpu, &params).unwrap();
        let mut tape = Tape::training(&network.cpu, Precision::F32);
        network.run(&mut tape, &params, kept);
        let (after_forward, _) = live(&network);
        tape.backward(&mut grads).unwrap();
        assert_eq!(live(&network).0, 0);
        (after_forward, live(&network).1)
    };
    let ((all, most), (blocks, least)) = (held(ALL), held(BLOCKS));
    assert!(blocks * 3 < all, "{blocks} of {all}");
    assert!(least < most, "{least} of {most}");
    // Of the last only what it is made of can be kept instead.
    for bit in 0..10 {
        assert!(held(ALL ^ (1 << bit)).0 <= all, "{bit}");
    }
}

#[test]
fn an_inference_tape_keeps_nothing() {
    let (network, params) = network();
    let mut tape = Tape::inference(&network.cpu, Precision::F32);
    network.run(&mut tape, &params, ALL);
    let usage = network.cpu.memory();
    assert!(usage.live.contains(&(MemoryKind::Activations, 0)), "{usage:?}");
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let (network, params) = network();
    let mut tape = Tape::training(&network.cpu, Precision::F32);
    let x = Var::constant(Tensor::new(up(&network.cpu, &[0.0; 10]), &[2, 5]));
    let y = Var::constant(Tensor::new(up(&network.cpu, &[0.0; 10]), &[5, 2]));
    assert!(matches!(tape.add(&x, &y), Err(Error::Shape { op: "add", .. })));
    let lora = Some((network.loras[0], &params));
    let linear = tape.linear(&x, &network.linears[0], lora, None);
    assert!(matches!(linear, Err(Error::Shape { op: "linear", .. })));
    let x = Var::constant(Tensor::new(up(&network.cpu, &[0.0; 2 * HIDDEN]), &[2, HIDDEN]));
    let plain =
        |i: usize| AdaptedLinear { linear: &network.linears[i], adapter: None, dropout: None };
    let mlp = tape.mlp(Activation::Silu, &x, [3, 6].map(plain), plain(5));
    assert!(matches!(mlp, Err(Error::Shape { op: "mlp", operand: "up", .. })));
}

#[test]
fn an_mlp_trains_its_last_linear_alike_whether_its_input_does_or_not() {
    let (network, params) = network();
    let values = up(&network.cpu, &normal(7, IDS.len() * HIDDEN, 1.0));
    let input = Var::constant(Tensor::new(values, &[IDS.len(), HIDDEN]));
    let gradients = |precision: Precision, trained: bool, keep: bool| -> Vec<Vec<f32>> {
        let mut grads = ParamGrads::zeros(&network.cpu, &params).unwrap();
        let mut tape = Tape::training(&network.cpu, precision);
        let adapted = |i: usize| AdaptedLinear {
            linear: &network.linears[i],
            adapter: Some((network.loras[i], &params)),
            dropout: Some(Dropout { p: 0.25, key: 5, stream: i as u64 }),
        };
        let plain = |i: usize| AdaptedLinear { adapter: None, ..adapted(i) };
        let [x] = tape.linears(&input, [adapted(1)]).unwrap();
        let x = if trained { x } else { Var::constant(x.tensor().clone()) };
        tape.keep(keep);
        let y = tape.mlp(Activation::GeluTanh, &x, [3, 4].map(plain), adapted(5)).unwrap();
        tape.linear_cross_entropy(&y, &network.linears[6], &network.labels, 1.0).unwrap();
        tape.backward(&mut grads).unwrap();
        grads.buffers().iter().map(|g| network.cpu.download(g).unwrap()).collect()
    };
    for (precision, keep) in
        [Precision::F32, Precision::BF16].map(|p| [(p, true), (p, false)]).concat()
    {
        let [alone, with_input] = [false, true].map(|trained| gradients(precision, trained, keep));
        let trains = |grads: &[Vec<f32>]| -> Vec<bool> {
            grads.iter().map(|grad| grad.iter().any(|x| *x != 0.0)).collect()
        };
        let [mut first, mut both] = [[false; 12]; 2];
        first[10..].fill(true);
        both[2..4].fill(true);
        both[10..].fill(true);
        assert_eq!((&*trains(&alone), &*trains(&with_input)), (&first[..], &both[..]));
        assert_eq!(alone[10..], with_input[10..], "{precision:?}, {keep}");
    }
}

#[test]
fn an_optimizer_of_other_parameters_is_an_error() {
    let (network, mut params) = network();
    let cpu = &network.cpu;
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut optimizer = AdamW::new(cpu, &params, config).unwrap();
    let grads = ParamGrads::zeros(cpu, &params).unwrap();
    let value = cpu.zeros(DType::F32, 1, MemoryKind::Adapters).unwrap();
    params.push(Param { name: "late".to_owned(), shape: vec![1], value });
    let step = optimizer.step(cpu, &mut params, &grads, 1e-3, 1.0);
    assert!(matches!(step, Err(Error::ParamCount { what: "gradients", .. })));
}

#[test]
fn clipping_scales_down_only() {
    assert_eq!(clip_factor(0.5, Some(1.0)), 1.0);
    assert_eq!(clip_factor(4.0, None), 1.0);
    assert!((clip_factor(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
}
