//! Tensors of all layers in one line each.

use std::collections::HashMap;
use std::fmt::Write as _;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
}

/// Lines of `dtype shape count bytes name`; tensors that differ only in their layer share one.
pub(super) fn table(entries: &[Entry]) -> String {
    let mut lines: Vec<(Entry, usize)> = Vec::new();
    let mut known = HashMap::new();
    for entry in entries {
        let entry = Entry { name: without_layer(&entry.name), ..entry.clone() };
        let same = (entry.name.clone(), entry.dtype.clone(), entry.shape.clone());
        let line = *known.entry(same).or_insert(lines.len());
        match lines.get_mut(line) {
            Some((line, count)) => {
                line.bytes += entry.bytes;
                *count += 1;
            }
            None => lines.push((entry, 1)),
        }
    }
    let mut text =
        format!("{:<6} {:>16} {:>5} {:>12}  tensor\n", "dtype", "shape", "count", "bytes");
    for (Entry { name, dtype, shape, bytes }, count) in lines {
        let shape = format!("{shape:?}");
        writeln!(text, "{dtype:<6} {shape:>16} {count:>5} {bytes:>12}  {name}")
            .expect("strings take everything");
    }
    text
}

/// `model.layers.7.mlp` becomes `model.layers.*.mlp`.
fn without_layer(name: &str) -> String {
    let parts = name.split('.');
    let star = |part| if is_number(part) { "*" } else { part };
    parts.map(star).collect::<Vec<_>>().join(".")
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Bytes in the largest fitting unit of 1000.
pub(super) fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.2} MB", b / 1e6),
        b => format!("{:.1} kB", b / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_share_a_line() {
        let entry = |name: &str| Entry {
            name: name.to_owned(),
            dtype: "F32".to_owned(),
            shape: vec![2, 3],
            bytes: 24,
        };
        let text = table(&[entry("l.0.w"), entry("l.10.w"), entry("n")]);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["F32", "[2,", "3]", "2", "48", "l.*.w"]);
        assert_eq!(lines[2], ["F32", "[2,", "3]", "1", "24", "n"]);
        assert_eq!(size(1_500_000), "1.50 MB");
    }
}
