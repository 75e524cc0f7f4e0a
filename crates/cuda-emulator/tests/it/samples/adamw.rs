use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::{Real, Shapes, widen};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    random::Random,
};

/// As the kernel's struct of that name.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Hyper {
    rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    decay: f32,
    correction1: f32,
    correction2: f32,
}

const HYPER: Hyper = Hyper {
    rate: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-3,
    decay: 0.1,
    correction1: 2.5,
    correction2: 7.0,
};

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let counts = match shapes {
        Shapes::All => &[1, 2, 3, 4, 127, 1024, 1030][..],
        Shapes::Few => &[128, 131],
    };
    counts.iter().map(|&n| case(n)).collect()
}

struct State<T> {
    weight: Vec<T>,
    first: Vec<T>,
    second: Vec<T>,
}

fn case(n: usize) -> Case {
    let mut random = Random::new(n as u64);
    let weight = random.skewed(n, 10, 5.0);
    let first = random.skewed(n, 10, 5.0);
    let second: Vec<f32> = random.skewed(n, 10, 5.0).into_iter().map(f32::abs).collect();
    let gradient = random.skewed_bf16(n, 10, 50.0);
    let truth = reference::<f64>(&weight, &first, &second, &gradient);
    let naive = reference::<f32>(&weight, &first, &second, &gradient);

    let scale = |old: &[f32], new: &[f64]| -> Vec<f64> {
        old.iter().zip(new).map(|(o, n)| f64::from(o.abs()).max(n.abs())).collect()
    };
    let near = |old: &[f32], new: &[f64], naive: &[f32]| {
        Near::to_naive(new.to_vec(), &widen(naive), &scale(old, new))
    };
    let rounded: Vec<f64> = naive.weight.iter().map(|w| bf16::from_f32(*w).to_f64()).collect();
    let copy = Near::to_naive(truth.weight.clone(), &rounded, &scale(&weight, &truth.weight));
    let args = (0..5).map(Arg::Buffer).chain([Arg::value(n as i32), Arg::value(HYPER)]).collect();
    Case {
        label: format!("adamw of {n}"),
        buffers: vec![
            Buffer::data(&weight),
            Buffer::output::<bf16>(n),
            Buffer::data(&first),
            Buffer::data(&second),
            Buffer::data(&gradient),
        ],
        launches: vec![Launch::line("adamw", n.div_ceil(4 * 64), 64, args)],
        expected: vec![
            (0, Expected::F32(near(&weight, &truth.weight, &naive.weight))),
            (1, Expected::Bf16(copy)),
            (2, Expected::F32(near(&first, &truth.first, &naive.first))),
            (3, Expected::F32(near(&second, &truth.second, &naive.second))),
        ],
    }
}

fn reference<T: Real>(
    weight: &[f32],
    first: &[f32],
    second: &[f32],
    gradient: &[bf16],
) -> State<T> {
    let of = |v: f32| T::of(f64::from(v));
    let one = T::of(1.0);
    let mut state = State { weight: vec![], first: vec![], second: vec![] };
    for (((w, m), v), g) in weight.iter().zip(first).zip(second).zip(gradient) {
        let (w, g) = (of(*w), of(g.to_f32()));
        let m = of(HYPER.beta1) * of(*m) + (one - of(HYPER.beta1)) * g;
        let v = of(HYPER.beta2) * of(*v) + (one - of(HYPER.beta2)) * g * g;
        let root = (v * of(HYPER.correction2)).sqrt() + of(HYPER.epsilon);
        let step = m * of(HYPER.correction1) / root + of(HYPER.decay) * w;
        state.weight.push(w - of(HYPER.rate) * step);
        state.first.push(m);
        state.second.push(v);
    }
    state
}
