use super::{Real, Shapes};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    random::Random,
};

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let shapes: &[(usize, usize, u32)] = match shapes {
        Shapes::All => &[(1, 1, 32), (50, 2, 32), (3000, 7, 64), (10_007, 40, 128)],
        Shapes::Few => &[(100, 5, 32), (300, 3, 64), (1500, 40, 32), (900, 2, 256)],
    };
    shapes.iter().map(|&(n, blocks, threads)| case(n, blocks, threads)).collect()
}

fn case(n: usize, blocks: usize, threads: u32) -> Case {
    let noise = Random::new(n as u64).skewed(n, 13, 30.0);
    let x: Vec<f32> = noise.iter().map(|v| v + 2.0).collect();
    let truth = reference::<f64>(&x);
    let naive = reference::<f32>(&x).map(f64::from);
    let mean_of = |f: fn(f64) -> f64| x.iter().map(|v| f(f64::from(*v))).sum::<f64>() / n as f64;
    let scale = [mean_of(f64::abs), mean_of(|v| v * v)];
    let args =
        vec![Arg::Buffer(0), Arg::value(n as i32), Arg::Buffer(1), Arg::Buffer(2), Arg::Buffer(3)];
    let mut launch = Launch::line("grid_variance", blocks, threads, args);
    launch.cooperative = true;
    let arrivals = [2 * blocks as u32];
    Case {
        label: format!("grid_variance of {n} by {blocks} blocks of {threads}"),
        buffers: vec![
            Buffer::data(&x),
            Buffer::output::<f32>(2 * blocks),
            Buffer::data(&[0u32]),
            Buffer::output::<f32>(2),
        ],
        launches: vec![launch],
        expected: vec![
            (2, Expected::Exact(bytemuck::cast_slice(&arrivals).to_vec())),
            (3, Expected::F32(Near::to_naive(truth.to_vec(), &naive, &scale))),
        ],
    }
}

fn reference<T: Real>(x: &[f32]) -> [T; 2] {
    let of = |v: &f32| T::of(f64::from(*v));
    let n = T::of(x.len() as f64);
    let mean = x.iter().map(of).fold(T::of(0.0), |sum, v| sum + v) / n;
    let squares = x.iter().map(of).fold(T::of(0.0), |sum, v| sum + (v - mean) * (v - mean));
    [mean, squares / n]
}
