use half::bf16;

use super::{Real, Shapes};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    random::Random,
};

const HEAD: usize = 64;
const SCALE: f32 = 0.125;

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let shapes: &[(usize, usize)] = match shapes {
        Shapes::All => &[(1, 1), (2, 15), (1, 64), (3, 65), (2, 127), (1, 200)],
        Shapes::Few => &[(1, 15), (2, 70)],
    };
    shapes.iter().map(|&(heads, tokens)| case(heads, tokens)).collect()
}

struct Attention {
    output: Vec<f64>,
    lse: Vec<f64>,
    /// Sum of the magnitudes of the terms of each output.
    output_scale: Vec<f64>,
    lse_scale: Vec<f64>,
}

fn case(heads: usize, tokens: usize) -> Case {
    let count = heads * tokens * HEAD;
    let mut random = Random::new((heads * 1000 + tokens) as u64);
    let [q, k, v] = [4.0, 4.0, 10.0].map(|large| random.skewed_bf16(count, 23, large));
    let truth = reference::<f64>(&q, &k, &v, tokens, |weight| weight);
    // Like any implementation on tensor cores, this one rounds the weights.
    let mut naive = reference::<f32>(&q, &k, &v, tokens, |w| bf16::from_f32(w).to_f32());
    for value in &mut naive.output {
        *value = bf16::from_f64(*value).to_f64();
    }
    let args =
        (0..5).map(Arg::Buffer).chain([Arg::value(tokens as i32), Arg::value(SCALE)]).collect();
    let mut launch = Launch::line("attention", tokens.div_ceil(64), 128, args);
    launch.grid[1] = heads as u32;
    launch.shared = 3 * 64 * 64 * 2;
    Case {
        label: format!("attention of {heads} heads, {tokens} tokens"),
        buffers: vec![
            Buffer::data(&q),
            Buffer::data(&k),
            Buffer::data(&v),
            Buffer::output::<bf16>(count),
            Buffer::output::<f32>(heads * tokens),
        ],
        launches: vec![launch],
        expected: vec![
            (3, Expected::Bf16(Near::to_naive(truth.output, &naive.output, &truth.output_scale))),
            (4, Expected::F32(Near::to_naive(truth.lse, &naive.lse, &truth.lse_scale))),
        ],
    }
}

fn reference<T: Real>(
    q: &[bf16],
    k: &[bf16],
    v: &[bf16],
    tokens: usize,
    round: impl Fn(T) -> T,
) -> Attention {
    let wide = |x: &[bf16]| x.iter().map(|v| T::of(v.to_f64())).collect::<Vec<T>>();
    let (q, k, v) = (wide(q), wide(k), wide(v));
    let zero = T::of(0.0);
    let mut result =
        Attention { output: vec![], lse: vec![], output_scale: vec![], lse_scale: vec![] };
    for (index, query) in q.chunks_exact(HEAD).enumerate() {
        let first = index / tokens * tokens; // of the head
        let keys = &k[first * HEAD..(index + 1) * HEAD];
        let dot = |key: &[T]| key.iter().zip(query).fold(zero, |sum, (a, b)| sum + *a * *b);
        let scores: Vec<T> =
            keys.chunks_exact(HEAD).map(|key| dot(key) * T::of(f64::from(SCALE))).collect();
        let largest = scores.iter().copied().fold(scores[0], T::max);
        let weights: Vec<T> = scores.iter().map(|s| (*s - largest).exp()).collect();
        let total = weights.iter().fold(zero, |sum, w| sum + *w);
        for d in 0..HEAD {
            let terms =
                weights.iter().enumerate().map(|(i, w)| round(*w) * v[(first + i) * HEAD + d]);
            let sum = terms.clone().fold(zero, |sum, t| sum + t);
            let size: f64 = terms.map(|t| t.wide().abs()).sum();
            result.output.push((sum / total).wide());
            result.output_scale.push(size / total.wide());
        }
        let bound = scores.iter().fold(1.0, |m: f64, s| m.max(s.wide().abs()));
        result.lse.push((largest + total.ln()).wide());
        result.lse_scale.push(bound);
    }
    result
}
