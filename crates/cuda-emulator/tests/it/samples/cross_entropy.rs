use super::{Real, Shapes, widen};
use crate::common::{
    case::{Arg, Buffer, Case, Expected, Launch, Near},
    random::Random,
};

pub(super) fn cases(shapes: Shapes) -> Vec<Case> {
    let shapes: &[(usize, usize, u32)] = match shapes {
        Shapes::All => &[(1, 1, 32), (5, 33, 64), (9, 257, 256), (4, 1000, 128), (70, 50, 96)],
        Shapes::Few => &[(5, 33, 64), (12, 257, 256), (60, 40, 32)],
    };
    shapes.iter().map(|&(rows, classes, threads)| case(rows, classes, threads)).collect()
}

struct Losses<T> {
    rows: Vec<T>,
    total: T,
    gradient: Vec<T>,
}

fn case(rows: usize, classes: usize, threads: u32) -> Case {
    let mut random = Random::new((rows * 31 + classes) as u64);
    let mut logits = random.skewed(rows * classes, 11, 20.0);
    // In two of three rows one so large that exponentials overflow unless the largest is taken off.
    for (_, row) in logits.chunks_exact_mut(classes).enumerate().filter(|(i, _)| i % 3 != 0) {
        row[random.below(classes)] = 200.0;
    }
    let mut targets: Vec<i32> = (0..rows).map(|_| random.below(classes) as i32).collect();
    if rows > 2 {
        targets[rows / 2] = -100;
        targets[rows / 3] = -1;
    }
    let scale = 1.0 / rows as f32;
    let truth = reference::<f64>(&logits, &targets, classes, scale);
    let naive = reference::<f32>(&logits, &targets, classes, scale);

    let row_scale: Vec<f64> = logits
        .chunks_exact(classes)
        .map(|row| 1.0 + row.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs()))))
        .collect();
    let total_scale = [row_scale.iter().sum::<f64>() * f64::from(scale)];
    let gradient_scale: Vec<f64> = truth
        .gradient
        .iter()
        .enumerate()
        .map(|(i, g)| {
            let hit = targets[i / classes] == (i % classes) as i32;
            if hit { f64::from(scale) } else { g.abs() }
        })
        .collect();
    let row_args = (0..4).map(Arg::Buffer).chain([Arg::value(classes as i32), Arg::value(scale)]);
    let total_args =
        vec![Arg::Buffer(2), Arg::Buffer(4), Arg::value(rows as i32), Arg::value(scale)];
    let near = |truth, naive: &[f32], scale: &[f64]| {
        Expected::F32(Near::to_naive(truth, &widen(naive), scale))
    };
    Case {
        label: format!("cross_entropy of {rows}x{classes} by {threads}"),
        buffers: vec![
            Buffer::data(&logits),
            Buffer::data(&targets),
            Buffer::output::<f32>(rows),
            Buffer::output::<f32>(rows * classes),
            Buffer::output::<f32>(1),
        ],
        launches: vec![
            Launch::line("cross_entropy", rows, threads, row_args.collect()),
            Launch::line("total_loss", 1, threads, total_args),
        ],
        expected: vec![
            (2, near(truth.rows, &naive.rows, &row_scale)),
            (3, near(truth.gradient, &naive.gradient, &gradient_scale)),
            (4, near(vec![truth.total], &[naive.total], &total_scale)),
        ],
    }
}

fn reference<T: Real>(logits: &[f32], targets: &[i32], classes: usize, scale: f32) -> Losses<T> {
    let zero = T::of(0.0);
    let scale = T::of(f64::from(scale));
    let mut rows = Vec::new();
    let mut gradient = Vec::new();
    for (row, &target) in logits.chunks_exact(classes).zip(targets) {
        let Ok(target) = usize::try_from(target) else {
            rows.push(zero);
            gradient.extend(vec![zero; classes]);
            continue;
        };
        let row: Vec<T> = row.iter().map(|v| T::of(f64::from(*v))).collect();
        let largest = row.iter().copied().fold(row[0], T::max);
        let total = row.iter().fold(zero, |sum, v| sum + (*v - largest).exp());
        rows.push(total.ln() + largest - row[target]);
        gradient.extend(row.iter().enumerate().map(|(i, v)| {
            let hit = T::of(f64::from(u8::from(i == target)));
            ((*v - largest).exp() / total - hit) * scale
        }));
    }
    let total = rows.iter().fold(zero, |sum, v| sum + *v) * scale;
    Losses { rows, total, gradient }
}
