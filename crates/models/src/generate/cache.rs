//! Keys and values of the tokens so far.

use autograd::Precision;
use kernels::{Backend, MemoryKind};

use crate::Result;
use crate::decoder::{Decoder, Span};

/// The caches of all layers, and how full each sequence's part is.
pub(crate) struct KvCache<K: Backend> {
    layers: Vec<LayerCache<K>>,
    capacity: usize,
    lengths: Vec<usize>,
}

/// Keys and values of one layer: `[sequences, capacity, kv_heads * head_dim]` each.
pub(crate) struct LayerCache<K: Backend> {
    keys: K::Buffer,
    values: K::Buffer,
    /// Elements of one token's keys.
    width: usize,
    /// Destination rows of the tokens of the next [`append`](Self::append): first row and count.
    rows: Vec<(usize, usize)>,
}

impl<K: Backend> KvCache<K> {
    pub(crate) fn new(
        decoder: &Decoder<K>,
        sequences: usize,
        capacity: usize,
        precision: Precision,
    ) -> Result<Self> {
        let config = decoder.config();
        let width = config.num_key_value_heads * config.head_dim;
        let len = sequences * capacity * width;
        let backend = decoder.backend();
        let alloc = || backend.zeros(precision.activations, len, MemoryKind::KvCache);
        let layer = || Ok(LayerCache { keys: alloc()?, values: alloc()?, width, rows: Vec::new() });
        Ok(Self {
            layers: (0..config.num_hidden_layers).map(|_| layer()).collect::<Result<_>>()?,
            capacity,
            lengths: vec![0; sequences],
        })
    }

    /// Makes room for `news[i]` tokens of sequence `active[i]`.
    pub(crate) fn extend(&mut self, active: &[usize], news: &[usize]) -> Vec<Span> {
        let spans: Vec<Span> = active
            .iter()
            .zip(news)
            .map(|(&i, &new)| Span { new, past: self.lengths[i], k_start: i * self.capacity })
            .collect();
        for (&i, &new) in active.iter().zip(news) {
            self.lengths[i] += new;
        }
        for layer in &mut self.layers {
            layer.rows = spans.iter().map(|s| (s.k_start + s.past, s.new)).collect();
        }
        spans
    }

    /// Rows of keys of all sequences, filled or not.
    pub(crate) fn rows(&self) -> usize {
        self.lengths.len() * self.capacity
    }

    pub(crate) fn layers(&mut self) -> &mut [LayerCache<K>] {
        &mut self.layers
    }
}

impl<K: Backend> LayerCache<K> {
    /// Stores the keys and values of the tokens that the last `extend` made room for.
    pub(crate) fn append(
        &mut self,
        backend: &K,
        keys: &K::Buffer,
        values: &K::Buffer,
    ) -> kernels::Result<()> {
        let mut from = 0;
        for &(row, count) in &self.rows {
            let (at, len) = (row * self.width, count * self.width);
            backend.copy(keys, from, &mut self.keys, at, len)?;
            backend.copy(values, from, &mut self.values, at, len)?;
            from += len;
        }
        Ok(())
    }

    /// All keys and all values.
    pub(crate) fn buffers(&self) -> (&K::Buffer, &K::Buffer) {
        (&self.keys, &self.values)
    }
}
