//! A rehearsal in words.

use std::fmt::Write as _;

use kernels::{MemoryKind, MemoryUsage};
use models::decoder::{Keep, Part};
use serde_json::{Value, json};

use super::{Need, size};

/// Lines of the table, in order: what they are called and what they count.
const LINES: [(&str, &str, &[MemoryKind]); 11] = [
    ("base weights", "weights", &[MemoryKind::Weights]),
    ("quantization state", "quant_state", &[MemoryKind::QuantState]),
    ("embeddings and head", "embeddings", &[MemoryKind::Embeddings]),
    ("adapters", "adapters", &[MemoryKind::Adapters]),
    ("gradients of adapters", "gradients", &[MemoryKind::Gradients]),
    ("optimizer state", "optimizer", &[MemoryKind::Optimizer]),
    ("kept activations", "activations", &[MemoryKind::Activations]),
    ("computed again", "recomputed", &[MemoryKind::Recomputed]),
    ("gradients of activations", "activation_gradients", &[MemoryKind::ActivationGradients]),
    ("workspace of operations", "workspace", &[MemoryKind::Workspace]),
    ("ids, positions, rotary tables", "data", &[MemoryKind::Data, MemoryKind::KvCache]),
];

/// What a run takes.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// What was found.
    pub need: &'a Need,
    /// Floating-point operations of the first step with everything kept.
    pub least_flops: u64,
    /// Bytes that the device keeps for itself.
    pub reserve: usize,
    /// Products that the device can do in a second, where that is known.
    pub peak_flops: Option<f64>,
}

impl Report<'_> {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, bytes: usize| {
            writeln!(text, "  {what:<34}{:>12}", size(bytes)).expect("strings take everything");
        };
        let usage = &self.need.usage;
        for (name, _, kinds) in LINES {
            line(name, at_peak(usage, kinds));
            if kinds == [MemoryKind::Activations] {
                for (layers, (_, bytes)) in self.layers() {
                    let each = if layers.contains('-') { ", each" } else { "" };
                    line(&format!("  {layers}{each}"), bytes);
                }
            }
        }
        line("gaps between buffers", usage.extent.saturating_sub(usage.peak));
        if self.need.in_host_memory {
            line("a checkpoint on its way to the disk", self.need.checkpoint);
        }
        if self.reserve > 0 {
            line("driver and kernels, at a guess", self.reserve);
        }
        line("in all", self.total());
        if !self.need.in_host_memory {
            line("in the host's memory besides", self.need.host_bytes());
        }
        writeln!(text, "  reached {}", usage.reached).expect("strings take everything");
        writeln!(text, "  {}", kept(self.need)).expect("strings take everything");
        writeln!(text, "  {}", self.work()).expect("strings take everything");
        text
    }

    /// Layers one after the other that keep the same, with it and the bytes of each.
    fn layers(&self) -> Vec<(String, (Keep, usize))> {
        let keep = self.need.keep.iter().copied();
        alike(keep.zip(self.need.usage.by_layer.iter().copied()))
    }

    fn work(&self) -> String {
        let Need { flops, tokens, .. } = *self.need;
        let more = 100.0 * (flops as f64 / self.least_flops.max(1) as f64 - 1.0);
        let mut text = format!(
            "a step of {tokens} tokens: {:.1} TFLOP of products, {more:.1} % of them for what is computed again",
            flops as f64 / 1e12
        );
        if let Some(speed) = self.tokens_per_second() {
            write!(
                text,
                "; at most {speed:.0} tokens/s (bound by the device's peak, not a forecast)"
            )
            .expect("strings take everything");
        }
        text
    }

    fn tokens_per_second(&self) -> Option<f64> {
        let Need { flops, tokens, .. } = *self.need;
        self.peak_flops.map(|peak| tokens as f64 * peak / flops.max(1) as f64)
    }

    fn total(&self) -> usize {
        self.need.bytes() + self.reserve
    }

    /// The same for programs, in bytes.
    pub fn json(&self) -> Value {
        let Need { keep, usage, flops, tokens, .. } = self.need;
        let kinds: serde_json::Map<_, _> = LINES
            .iter()
            .map(|(_, key, kinds)| ((*key).to_owned(), json!(at_peak(usage, kinds))))
            .collect();
        let away: Vec<bool> = keep.iter().map(|keep| self.need.puts_away(*keep)).collect();
        let kept: Vec<_> = keep
            .iter()
            .map(|keep| Part::COMPUTED.into_iter().filter(|part| keep.has(*part)).map(Part::name))
            .map(Iterator::collect::<Vec<_>>)
            .collect();
        let by_operation: serde_json::Map<_, _> =
            usage.flops.iter().map(|(name, flops)| ((*name).to_owned(), json!(flops))).collect();
        json!({
            "total": self.total(),
            "peak": usage.peak,
            "extent": usage.extent,
            "reserve": self.reserve,
            "host": self.need.host_bytes(),
            "checkpoint": self.need.checkpoint,
            "at_peak": kinds,
            "reached": usage.reached.to_string(),
            "kept_by_layer": kept,
            "activations_by_layer": usage.by_layer,
            "inputs_in_host_memory": away,
            "step": { "tokens": tokens, "flops": flops, "flops_with_all_kept": self.least_flops },
            "flops_by_operation": by_operation,
            "tokens_per_second_bound": self.tokens_per_second(),
        })
    }
}

fn at_peak(usage: &MemoryUsage, kinds: &[MemoryKind]) -> usize {
    usage.at_peak.iter().filter(|(kind, _)| kinds.contains(kind)).map(|(_, bytes)| bytes).sum()
}

/// What is kept, layers alike together.
pub fn kept(need: &Need) -> String {
    let one = |(layers, keep): (String, Keep)| {
        let gone: Vec<_> = Part::COMPUTED.into_iter().filter(|part| !keep.has(*part)).collect();
        let names = || gone.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ");
        let what = match gone.len() {
            0 => "all kept".to_owned(),
            6 => "all computed again".to_owned(),
            _ => format!("{} computed again", names()),
        };
        let away = if need.puts_away(keep) { ", inputs in the host's memory" } else { "" };
        format!("{layers}: {what}{away}")
    };
    alike(need.keep.iter().copied()).into_iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Names of layers one after the other of which the same holds, and what.
fn alike<T: PartialEq>(layers: impl IntoIterator<Item = T>) -> Vec<(String, T)> {
    let mut runs: Vec<(usize, usize, T)> = Vec::new();
    for (layer, what) in layers.into_iter().enumerate() {
        match runs.last_mut() {
            Some((_, last, same)) if *same == what => *last = layer,
            _ => runs.push((layer, layer, what)),
        }
    }
    let name = |(first, last, what)| {
        let layers =
            if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        (layers, what)
    };
    runs.into_iter().map(name).collect()
}
