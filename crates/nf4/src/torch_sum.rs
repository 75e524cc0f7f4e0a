//! The sum of f32 values in the order of torch's CPU kernel.
//!
//! The 8-bit codes of the nested scales depend on every bit of the scales' mean, so the order of
//! additions is part of the format. It is that of one thread on x86 (`SumKernel.cpp`). Torch splits
//! 32,768 values or more between its threads, and its last bits then change with their number;
//! this sum never changes.

/// Lanes of torch's vectors.
const LANES: usize = 8;
/// Vectors its inner loop adds side by side.
const ROWS: usize = 4;
/// Levels of its cascade.
const LEVELS: usize = 4;

type Rows<const L: usize> = [[f32; L]; ROWS];

/// The sum of `values`.
pub(crate) fn sum(values: &[f32]) -> f32 {
    if values.len() < LANES {
        return row_sum(values.as_chunks::<1>().0)[0];
    }
    let (vectors, rest) = values.as_chunks::<LANES>();
    let tail = rest.iter().fold(0.0, |sum, x| sum + x);
    row_sum(vectors).iter().fold(tail, |sum, x| sum + x)
}

/// The lane-wise sum of vectors.
fn row_sum<const L: usize>(vectors: &[[f32; L]]) -> [f32; L] {
    let (rows, extra) = vectors.as_chunks::<ROWS>();
    let [mut total, others @ ..] = cascade_sum(rows);
    for vector in extra.iter().chain(&others) {
        add(&mut total, vector);
    }
    total
}

/// Sums rows through a cascade: a level that is full is added to the next one and starts again,
/// which keeps the rounding error small.
fn cascade_sum<const L: usize>(rows: &[Rows<L>]) -> Rows<L> {
    let power = (ceil_log2(rows.len()) / LEVELS as u32).max(4);
    let step = 1 << power;
    let mut levels = [[[0.0; L]; ROWS]; LEVELS];
    let groups = rows.chunks_exact(step);
    let rest = groups.remainder();
    for (i, group) in groups.enumerate() {
        for row in group {
            add_rows(&mut levels[0], row);
        }
        let done = (i + 1) * step;
        for level in 1..LEVELS {
            let full = std::mem::replace(&mut levels[level - 1], [[0.0; L]; ROWS]);
            add_rows(&mut levels[level], &full);
            if done & ((step - 1) << (level as u32 * power)) != 0 {
                break;
            }
        }
    }
    for row in rest {
        add_rows(&mut levels[0], row);
    }
    let [mut total, higher @ ..] = levels;
    for level in &higher {
        add_rows(&mut total, level);
    }
    total
}

fn add_rows<const L: usize>(to: &mut Rows<L>, from: &Rows<L>) {
    for (to, from) in to.iter_mut().zip(from) {
        add(to, from);
    }
}

fn add<const L: usize>(to: &mut [f32; L], from: &[f32; L]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

fn ceil_log2(n: usize) -> u32 {
    n.max(1).next_power_of_two().ilog2()
}

#[cfg(test)]
mod tests {
    use super::sum;

    /// `torch.arange(1, n + 1).float().reciprocal().sum()`, torch 2.15.0 with one thread.
    const SUMS: [(usize, u32); 7] = [
        (3, 0x3fea_aaab),
        (7, 0x4025_f15f),
        (8, 0x402d_f160),
        (45, 0x408c_a36b),
        (1_000, 0x40ef_88fa),
        (20_000, 0x4127_b10f),
        (100_001, 0x4141_7148),
    ];

    #[test]
    fn sums_have_the_bits_of_torch() {
        for (n, bits) in SUMS {
            let values: Vec<f32> = (1..=n).map(|i| 1.0 / i as f32).collect();
            assert_eq!(sum(&values).to_bits(), bits, "{n} values");
        }
    }
}
