//! Cards that a run can be planned for without having one.

use std::str::FromStr;

/// What planning needs to know of a card.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// As it is asked for.
    pub name: &'static str,
    /// Bytes of memory.
    pub memory: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Compute capability.
    pub compute_capability: (i32, i32),
    /// Operations a second of dense bf16 products summed in f32; `None` where it is just some memory.
    pub peak_flops: Option<f64>,
}

/// Bytes that the driver's context and the kernels' code take of a card: not known before there is one.
pub const RESERVE: usize = 512 << 20;

const fn card(
    name: &'static str,
    gib: usize,
    multiprocessors: usize,
    compute_capability: (i32, i32),
    teraflops: f64,
) -> Card {
    let peak_flops = Some(teraflops * 1e12);
    Card { name, memory: gib << 30, multiprocessors, compute_capability, peak_flops }
}

/// From NVIDIA's architecture papers and data sheets; peaks without sparsity.
pub const CARDS: [Card; 12] = [
    card("rtx3060", 12, 28, (8, 6), 25.5),
    card("rtx3090", 24, 82, (8, 6), 71.0),
    card("rtx3090ti", 24, 84, (8, 6), 80.0),
    card("rtx4080", 16, 76, (8, 9), 97.5),
    card("rtx4090", 24, 128, (8, 9), 165.2),
    card("a10", 24, 72, (8, 6), 62.5),
    card("l4", 24, 60, (8, 9), 60.5),
    card("l40s", 48, 142, (8, 9), 181.0),
    card("a100-40gb", 40, 108, (8, 0), 312.0),
    card("a100", 80, 108, (8, 0), 312.0),
    card("h100", 80, 132, (9, 0), 989.0),
    card("h200", 141, 132, (9, 0), 989.0),
];

impl FromStr for Card {
    type Err = String;

    /// A name of [`CARDS`], or an amount of memory in GiB on a card like an RTX 3090.
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase().replace([' ', '_'], "");
        if let Some(card) = CARDS.iter().find(|card| card.name == lower) {
            return Ok(*card);
        }
        let gib = lower.strip_suffix("gib").unwrap_or(&lower);
        match gib.parse::<f64>() {
            Ok(gib) if (0.5..10_000.0).contains(&gib) => {
                let memory = (gib * (1_u64 << 30) as f64) as usize;
                Ok(Self { name: "a card", memory, peak_flops: None, ..CARDS[1] })
            }
            _ => {
                let names: Vec<_> = CARDS.iter().map(|card| card.name).collect();
                Err(format!(
                    "not cpu, cuda:N, an amount like 16GiB, or one of {}",
                    names.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_found_by_name_and_by_memory() {
        assert_eq!("RTX 4090".parse::<Card>().unwrap().multiprocessors, 128);
        for text in ["16", "16GiB", "16 gib"] {
            assert_eq!(text.parse::<Card>().unwrap().memory, 16 << 30);
        }
        for text in ["", "rtx", "0", "-3GiB", "nan"] {
            assert!(text.parse::<Card>().unwrap_err().contains("rtx3090"), "{text}");
        }
    }
}
