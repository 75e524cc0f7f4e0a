//! How a product is cut into tasks.

/// Most columns of a task: with [`DEPTH`](super::DEPTH) a panel of 432 KiB.
const COLS: usize = 192;
/// Most rows of a task: each fills its panels itself.
const ROWS: usize = 1024;
/// Rows that are widened, and finished, at a time.
pub(super) const BLOCK: usize = 32;
/// Rows that take as long as filling the panel they pass by, whatever its width: 25 to 40, measured on AVX2.
const FILL: usize = 32;
/// Columns that take as long as what a row costs besides, whatever their number. With none, panels are cut where rows
/// might be, and products of 1,024 rows take up to an eighth longer.
const PASS: usize = 16;

/// Rows, whole blocks, and columns, a multiple of `unit` or all, of the tasks that are soonest done by threads that
/// take as many each. Results do not depend on it.
pub(super) fn grid((m, cols): (usize, usize), unit: usize, threads: usize) -> (usize, usize) {
    let fewest = m.div_ceil(ROWS);
    // Beyond some tasks for each thread, shares are about equal anyway.
    let most = m.div_ceil(BLOCK).min(fewest.max(8 * threads));
    let heights = (fewest..=most).map(|parts| m.div_ceil(parts).next_multiple_of(BLOCK));
    let widths = (1..=COLS / unit).rev().map(|units| cols.min(units * unit));
    let grids = heights.flat_map(|height| widths.clone().map(move |width| (height, width)));
    grids
        .min_by_key(|&(height, width)| {
            let tasks = m.div_ceil(height) * cols.div_ceil(width);
            tasks.div_ceil(threads) * (width + PASS) * (height.min(m) + FILL)
        })
        .expect("there are rows and columns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_about_equal_shares() {
        // Columns of a small model's layers; the last is an adapter's rank.
        for m in [1, 64, 256, 1000, 2048] {
            for cols in [192, 576, 1536, 49152, 16] {
                for threads in [1, 2, 3, 8, 24] {
                    let (height, width) = grid((m, cols), 32, threads);
                    assert!((1..=COLS).contains(&width) && (1..=ROWS).contains(&height));
                    let rounds = (m.div_ceil(height) * cols.div_ceil(width)).div_ceil(threads);
                    let share = (m * cols).div_ceil(threads).max(m.min(BLOCK) * 32);
                    let slowest = rounds * height.min(m) * width;
                    assert!(slowest <= share * 3 / 2, "{m} x {cols}: {slowest} of {share}");
                }
            }
        }
    }

    #[test]
    fn tasks_are_as_large_as_shares_let_them() {
        let of = |shape, threads| grid(shape, 32, threads);
        assert_eq!(of((1024, 576), 1), (1024, 192));
        assert_eq!(of((2048, 4096), 2), (1024, 192));
        // Rows are cut rather than panels, unless that would leave few.
        assert_eq!(of((1024, 576), 2), (512, 192));
        assert_eq!(of((256, 576), 2), (256, 96));
        assert_eq!(of((256, 16), 2), (128, 16));
    }
}
