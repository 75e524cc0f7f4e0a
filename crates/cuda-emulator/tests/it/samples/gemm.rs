use half::bf16;

use super::{Shapes, widen};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    random::Random,
};

/// Whole tiles, several tiles, and an end within each element of a thread's fragment.
const FEW: [[usize; 3]; 13] = [
    [64, 64, 64],
    [40, 50, 9],
    [50, 40, 33],
    [130, 70, 37],
    [7, 133, 101],
    [3, 1, 5],
    [11, 2, 3],
    [19, 9, 8],
    [27, 10, 1],
    [3, 17, 20],
    [11, 18, 32],
    [19, 25, 33],
    [27, 26, 40],
];

const MORE: [[usize; 3]; 7] = [
    [1, 1, 1],
    [16, 8, 16],
    [63, 65, 24],
    [65, 63, 33],
    [127, 3, 100],
    [130, 129, 96],
    [2, 200, 131],
];

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let more = if shapes == Shapes::All { &MORE[..] } else { &[] };
    FEW.iter().chain(more).map(|&shape| case(shape)).collect()
}

fn case([m, n, k]: [usize; 3]) -> Case {
    let stride = k.next_multiple_of(8);
    let mut random = Random::new((m * 1_000_000 + n * 1000 + k) as u64);
    let a = rows_apart(&random.skewed_bf16(m * k, 29, 8.0), k, stride);
    let b = rows_apart(&random.skewed_bf16(n * k, 31, 8.0), k, stride);

    let mut truth = Vec::with_capacity(m * n);
    let mut naive = Vec::with_capacity(m * n);
    let mut scale = Vec::with_capacity(m * n);
    for row in a.chunks_exact(stride) {
        for column in b.chunks_exact(stride) {
            let products = row.iter().zip(column).take(k).map(|(x, y)| x.to_f32() * y.to_f32());
            truth.push(products.clone().map(f64::from).sum()); // the products are exact
            scale.push(products.clone().map(|p| f64::from(p.abs())).sum());
            naive.push(products.fold(0.0, |sum, p| sum + p));
        }
    }
    let numbers = [m, n, k, stride].map(|v| Arg::value(v as i32));
    let args = (0..3).map(Arg::Buffer).chain(numbers).collect();
    let mut launch = Launch::line("gemm", n.div_ceil(64), 128, args);
    launch.grid[1] = m.div_ceil(64) as u32;
    Case {
        label: format!("gemm of {m}x{n}x{k}"),
        buffers: vec![Buffer::data(&a), Buffer::data(&b), Buffer::output::<f32>(m * n)],
        launches: vec![launch],
        expected: vec![(2, Expected::F32(Near::to_naive(truth, &widen(&naive), &scale)))],
    }
}

/// Rows `stride` apart, with NaN in between: it must not be read.
fn rows_apart(values: &[bf16], k: usize, stride: usize) -> Vec<bf16> {
    let gap = vec![bf16::NAN; stride - k];
    values.chunks_exact(k).flat_map(|row| [row, &gap].concat()).collect()
}
