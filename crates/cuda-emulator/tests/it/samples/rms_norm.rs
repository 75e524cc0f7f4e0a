use half::bf16;

use super::{Real, Shapes, widen};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    random::Random,
};

const EPSILON: f32 = 1e-5;

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let shapes: &[(usize, usize, u32)] = match shapes {
        Shapes::All => {
            &[(1, 2, 32), (3, 66, 64), (5, 576, 256), (2, 1000, 128), (4, 130, 256), (7, 510, 96)]
        }
        Shapes::Few => &[(3, 66, 64), (2, 576, 256)],
    };
    shapes.iter().map(|&(rows, columns, threads)| case(rows, columns, threads)).collect()
}

fn case(rows: usize, columns: usize, threads: u32) -> Case {
    let mut random = Random::new((rows * columns) as u64);
    let x = random.skewed_bf16(rows * columns, 37, 12.0);
    let weight = random.skewed_bf16(columns, 5, 3.0);
    let (y, rstd) = reference::<f64>(&x, &weight);
    let (naive_y, naive_rstd) = reference::<f32>(&x, &weight);
    let naive_y: Vec<f64> = naive_y.iter().map(|v| bf16::from_f32(*v).to_f64()).collect();
    let magnitude = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let (y_scale, rstd_scale) = (magnitude(&y), magnitude(&rstd));
    let args =
        (0..4).map(Arg::Buffer).chain([Arg::value(columns as i32), Arg::value(EPSILON)]).collect();
    Case {
        label: format!("rms_norm of {rows}x{columns} by {threads}"),
        buffers: vec![
            Buffer::data(&x),
            Buffer::data(&weight),
            Buffer::output::<bf16>(rows * columns),
            Buffer::output::<f32>(rows),
        ],
        launches: vec![Launch::line("rms_norm", rows, threads, args)],
        expected: vec![
            (2, Expected::Bf16(Near::to_naive(y, &naive_y, &y_scale))),
            (3, Expected::F32(Near::to_naive(rstd, &widen(&naive_rstd), &rstd_scale))),
        ],
    }
}

fn reference<T: Real>(x: &[bf16], weight: &[bf16]) -> (Vec<T>, Vec<T>) {
    let wide = |v: &bf16| T::of(v.to_f64());
    let rows = x.chunks_exact(weight.len());
    let rstd: Vec<T> = rows
        .clone()
        .map(|row| {
            let squares = row.iter().map(wide).fold(T::of(0.0), |sum, v| sum + v * v);
            let mean = squares / T::of(weight.len() as f64);
            T::of(1.0) / (mean + T::of(f64::from(EPSILON))).sqrt()
        })
        .collect();
    let scaled = |(row, rstd): (&[bf16], &T)| -> Vec<T> {
        row.iter().zip(weight).map(|(v, w)| wide(v) * *rstd * wide(w)).collect()
    };
    (rows.zip(&rstd).flat_map(scaled).collect(), rstd)
}
