//! What a forward pass reads besides weights: ids, positions, sequence bounds, rotary table.

use std::sync::Arc;

use kernels::ops::{RopeTable, Sequences};
use kernels::{Backend, HostSlice, MemoryKind};

use super::{CachedRope, Decoder};
use crate::{Error, Result};

/// Tokens of several sequences, one after the other, without padding.
#[derive(Debug)]
pub struct Inputs<K: Backend> {
    pub(crate) ids: K::Buffer,
    pub(crate) positions: Arc<K::Buffer>,
    pub(crate) sequences: Arc<Sequences<K>>,
    pub(crate) rope: Arc<RopeTable<K>>,
    pub(crate) tokens: usize,
}

/// Where a sequence's new tokens stand: how many keys it has already, and where those are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// New tokens.
    pub(crate) new: usize,
    /// Tokens before them.
    pub(crate) past: usize,
    /// First key row.
    pub(crate) k_start: usize,
}

impl<K: Backend> Decoder<K> {
    /// Prepares whole sequences of `lengths`, whose ids stand one after the other in `ids`.
    pub fn inputs(&self, ids: &[u32], lengths: &[usize]) -> Result<Inputs<K>> {
        let mut k_start = 0;
        let spans: Vec<Span> = lengths
            .iter()
            .map(|&new| {
                k_start += new;
                Span { new, past: 0, k_start: k_start - new }
            })
            .collect();
        self.inputs_at(ids, &spans, k_start)
    }

    /// Prepares new tokens of sequences that may have a past, over `key_rows` rows of keys.
    pub(crate) fn inputs_at(
        &self,
        ids: &[u32],
        spans: &[Span],
        key_rows: usize,
    ) -> Result<Inputs<K>> {
        self.check_ids(ids)?;
        let tokens: usize = spans.iter().map(|s| s.new).sum();
        if tokens != ids.len() || spans.iter().any(|s| s.new == 0) {
            return Err(Error::Input(format!(
                "{} token ids for sequences of {tokens} tokens in all, none of which may be empty",
                ids.len()
            )));
        }
        let longest = spans.iter().map(|s| s.past + s.new).max().unwrap_or(0);
        let limit = self.config.context_limit();
        if longest > limit {
            return Err(Error::Input(format!(
                "a sequence of {longest} tokens is longer than the model's context of {limit}"
            )));
        }
        let positions: Vec<u32> =
            spans.iter().flat_map(|s| s.past..s.past + s.new).map(|p| p as u32).collect();
        Ok(Inputs {
            ids: self.upload(ids)?,
            positions: Arc::new(self.upload(&positions)?),
            sequences: Arc::new(self.sequences(spans, key_rows)?),
            rope: self.rope_table(longest)?,
            tokens,
        })
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            None => Ok(()),
            Some(id) => Err(Error::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocab}; is this its tokenizer?"
            ))),
        }
    }

    fn sequences(&self, spans: &[Span], k_tokens: usize) -> Result<Sequences<K>> {
        let mut q_start = vec![0u32];
        for span in spans {
            q_start.push(q_start[q_start.len() - 1] + span.new as u32);
        }
        let k_start: Vec<u32> = spans.iter().map(|s| s.k_start as u32).collect();
        let k_len: Vec<u32> = spans.iter().map(|s| (s.past + s.new) as u32).collect();
        Ok(Sequences {
            count: spans.len(),
            q_tokens: spans.iter().map(|s| s.new).sum(),
            k_tokens,
            max_q: spans.iter().map(|s| s.new).max().unwrap_or(0),
            max_k: spans.iter().map(|s| s.past + s.new).max().unwrap_or(0),
            q_start: self.upload(&q_start)?,
            k_start: self.upload(&k_start)?,
            k_len: self.upload(&k_len)?,
        })
    }

    pub(crate) fn upload(&self, data: &[u32]) -> Result<K::Buffer> {
        Ok(self.backend.upload(HostSlice::U32(data), MemoryKind::Data)?)
    }

    /// Cosines and sines of at least `seq_len` positions, with the frequencies of that length. The
    /// table grows by doubling, so that generation does not make one for each token; under dynamic
    /// scaling beyond the trained length each sequence length has frequencies of its own.
    fn rope_table(&self, seq_len: usize) -> Result<Arc<RopeTable<K>>> {
        let dynamic = matches!(self.config.rope.scaling, crate::RopeScaling::Dynamic { .. });
        let trained = self.config.max_position_embeddings;
        let only_for = (dynamic && seq_len > trained).then_some(seq_len);
        let mut cached = self.rope.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(rope) = cached.as_ref()
            && rope.only_for == only_for
            && rope.table.positions >= seq_len
        {
            return Ok(Arc::clone(&rope.table));
        }
        let most = if dynamic { trained } else { self.config.context_limit() };
        let positions = only_for.unwrap_or_else(|| seq_len.next_power_of_two().min(most));
        let table = Arc::new(self.make_rope_table(positions)?);
        *cached = Some(CachedRope { table: Arc::clone(&table), only_for });
        Ok(table)
    }

    fn make_rope_table(&self, seq_len: usize) -> Result<RopeTable<K>> {
        let config = &self.config;
        let (inv_freq, scaling) = config.rope_tables(seq_len);
        let angles = (0..seq_len).flat_map(|p| inv_freq.iter().map(move |f| p as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            angles.map(|a| (a.cos() * scaling, a.sin() * scaling)).unzip();
        let upload = |x: &[f32]| self.backend.upload(HostSlice::F32(x), MemoryKind::Data);
        Ok(RopeTable { cos: upload(&cos)?, sin: upload(&sin)?, positions: seq_len })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kernels::Cpu;

    use super::*;
    use crate::decoder::{BaseFormat, LoadOptions};
    use crate::{Checkpoint, RopeScaling};

    fn decoder(scaling: RopeScaling, context: usize) -> Decoder<Cpu> {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama");
        let source = Checkpoint::open(Path::new(model)).unwrap();
        let mut config = source.config().clone();
        config.rope.scaling = scaling;
        config.max_position_embeddings = context;
        let options =
            LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
        Decoder::load(&Cpu::new(), &source, &config, &options).unwrap()
    }

    #[test]
    fn a_table_is_made_once_for_many_lengths() {
        let decoder = decoder(RopeScaling::Default, 24);
        let table = |seq_len| decoder.rope_table(seq_len).unwrap();
        let first = table(9);
        assert_eq!(first.positions, 16);
        assert!([10, 16, 3].into_iter().all(|seq_len| Arc::ptr_eq(&table(seq_len), &first)));
        assert_eq!(table(17).positions, 24, "no further than the context");
    }

    #[test]
    fn dynamic_frequencies_are_those_of_the_length() {
        let decoder = decoder(RopeScaling::Dynamic { factor: 2.0 }, 12);
        let cos = |seq_len| {
            let table = decoder.rope_table(seq_len).unwrap();
            let cos = decoder.backend.download(&table.cos).unwrap();
            (table.positions, cos)
        };
        for seq_len in [9, 13, 12, 20, 13, 10] {
            let (positions, cos) = cos(seq_len);
            assert_eq!(positions, if seq_len > 12 { seq_len } else { 12 });
            let (inv_freq, _) = decoder.config.rope_tables(seq_len);
            let expected: Vec<f32> = inv_freq.iter().map(|f| (2.0 * f).cos()).collect();
            assert_eq!(cos[2 * inv_freq.len()..3 * inv_freq.len()], expected, "{seq_len}");
        }
    }
}
