//! Parameters of the operations: shapes and constants, plus borrowed weights where an operation
//! takes several. `K` is the backend (`B` is taken by LoRA's second matrix).

use crate::Backend;

/// Label of a position whose prediction is not trained (`-100` in Hugging Face's files).
pub const IGNORE: u32 = u32::MAX;

/// Rows normalised one by one: `[rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm {
    /// Rows: tokens, or tokens times heads for a per-head norm.
    pub rows: usize,
    /// Elements of one row; the weight has as many.
    pub cols: usize,
    /// Added to the mean square before the root.
    pub eps: f32,
}

/// A frozen weight `[n, k]`, row-major: out features by in features.
#[derive(Debug)]
pub enum Weight<'a, K: Backend> {
    /// 16- or 32-bit floats.
    Dense(&'a K::Buffer),
    /// 4-bit blocks.
    Quantized(&'a K::QuantizedWeight),
}

#[expect(clippy::expl_impl_clone_on_copy, reason = "a derive would ask for `K: Copy`")]
impl<K: Backend> Clone for Weight<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K: Backend> Copy for Weight<'_, K> {}

/// Inverted dropout with a counter-based generator: element `i` of the `[m, k]` input is kept when
/// the Philox word of (`key`, `stream`, `i`) says so, so a recomputed forward draws the same mask.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability of zeroing an element, in `[0, 1)`. Kept elements are scaled by `1 / (1 - p)`.
    pub p: f32,
    /// Key of the run.
    pub key: u64,
    /// Stream, unique for each layer, projection and step.
    pub stream: u64,
}

impl Dropout {
    /// An element is kept when its Philox word is at least this: `floor(p * 2^32)`.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }
}

/// LoRA on a linear: `y += scale * dropout(x) . A^T . B^T` (Hu et al. 2021).
#[derive(Debug)]
pub struct Lora<'a, K: Backend> {
    /// `[r, k]`.
    pub a: &'a K::Buffer,
    /// `[n, r]`.
    pub b: &'a K::Buffer,
    /// Rank.
    pub r: usize,
    /// `lora_alpha / r`, or `lora_alpha / sqrt(r)` with rsLoRA.
    pub scale: f32,
    /// Dropout on the adapter's input only.
    pub dropout: Option<Dropout>,
}

#[expect(clippy::expl_impl_clone_on_copy, reason = "a derive would ask for `K: Copy`")]
impl<K: Backend> Clone for Lora<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K: Backend> Copy for Lora<'_, K> {}

/// `Y[m, n] = X[m, k] . W^T (+ bias) (+ LoRA)`.
///
/// Base output, bias and LoRA delta are summed in f32 and rounded once to `Y`'s type: a sum in
/// bf16 would lose most of an adapter's early updates.
#[derive(Debug)]
pub struct Linear<'a, K: Backend> {
    /// Rows of X and Y.
    pub m: usize,
    /// Out features.
    pub n: usize,
    /// In features.
    pub k: usize,
    /// Frozen weight.
    pub weight: Weight<'a, K>,
    /// Frozen bias `[n]`.
    pub bias: Option<&'a K::Buffer>,
    /// Adapter.
    pub lora: Option<Lora<'a, K>>,
}

#[expect(clippy::expl_impl_clone_on_copy, reason = "a derive would ask for `K: Copy`")]
impl<K: Backend> Clone for Linear<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K: Backend> Copy for Linear<'_, K> {}

impl<K: Backend> Linear<'_, K> {
    /// Floating-point operations of the forward.
    pub(crate) fn flops(&self) -> u64 {
        let r = self.lora.map_or(0, |lora| lora.r);
        product(self.m, [self.k, self.n]) + product(self.m, [self.k + self.n, r])
    }
}

/// Floating-point operations of a product of `rows` rows and a matrix of this shape.
fn product(rows: usize, [inner, outer]: [usize; 2]) -> u64 {
    2 * rows as u64 * inner as u64 * outer as u64
}

/// A linear and what it writes.
#[derive(Debug)]
pub struct LinearInto<'a, K: Backend> {
    /// The linear.
    pub op: Linear<'a, K>,
    /// `[m, n]`.
    pub y: &'a mut K::Buffer,
    /// f32 `[m, r]`, with an adapter and only then: `dropout(x) . A^T`, which the backward reads.
    pub xa: Option<&'a mut K::Buffer>,
}

/// Gradients that [`Backend::linear_backward`] writes; `None` where not needed.
#[derive(Debug)]
pub struct LinearGrads<'a, K: Backend> {
    /// `[m, k]`.
    pub dx: Option<&'a mut K::Buffer>,
    /// Add to `dx` instead of overwriting it (q, k and v share their input).
    pub accumulate_dx: bool,
    /// `[r, k]`, always added to.
    pub da: Option<&'a mut K::Buffer>,
    /// `[n, r]`, always added to.
    pub db: Option<&'a mut K::Buffer>,
}

/// A linear of several of one input: what its backward reads, and gradients that [`Backend::linears_backward`] writes,
/// `None` where not needed.
#[derive(Debug)]
pub struct LinearBackward<'a, K: Backend> {
    /// The linear.
    pub op: Linear<'a, K>,
    /// What the forward wrote; computed again where it is not at hand.
    pub xa: Option<&'a K::Buffer>,
    /// `[m, n]`.
    pub dy: &'a K::Buffer,
    /// `[r, k]`, always added to.
    pub da: Option<&'a mut K::Buffer>,
    /// `[n, r]`, always added to.
    pub db: Option<&'a mut K::Buffer>,
}

impl<K: Backend> LinearBackward<'_, K> {
    /// Floating-point operations of the gradients asked for; `dx` says whether that of the input is.
    pub(crate) fn flops(&self, dx: bool) -> u64 {
        let r = self.op.lora.map_or(0, |lora| lora.r);
        let Linear { m, n, k, .. } = self.op;
        let (da, db) = (self.da.is_some(), self.db.is_some());
        let of = |wanted: bool, flops: [usize; 2]| if wanted { product(m, flops) } else { 0 };
        of(dx, [n, k])
            + of(dx || da, [n, r])
            + of(dx, [r, k])
            + of(da, [r, k])
            + of(db, [n, r])
            + of(db && self.xa.is_none(), [r, k])
    }
}

/// Rotary embedding over `[tokens, heads, head_dim]`, halves rotated (Su et al. 2021, in the
/// half-split layout of Hugging Face): `(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)`.
#[derive(Debug, Clone, Copy)]
pub struct Rope {
    /// Tokens.
    pub tokens: usize,
    /// Heads of this operand.
    pub heads: usize,
    /// Elements of one head, even.
    pub head_dim: usize,
    /// Rotate by the negative angle: the backward of the forward.
    pub inverse: bool,
}

/// `cos` and `sin` by position: f32 `[positions, head_dim / 2]` each, attention scaling included.
#[derive(Debug)]
pub struct RopeTable<K: Backend> {
    /// Cosines.
    pub cos: K::Buffer,
    /// Sines.
    pub sin: K::Buffer,
    /// Rows of the tables.
    pub positions: usize,
}

/// Which rows of q, k and v belong to which sequence.
///
/// Sequence `i` has the queries `q_start[i]..q_start[i + 1]` and the keys
/// `k_start[i]..k_start[i] + k_len[i]`. Queries are the last of their sequence's keys, so query `j`
/// of a sequence with `q` queries stands at key position `k_len - q + j`.
#[derive(Debug)]
pub struct Sequences<K: Backend> {
    /// u32 `[count + 1]`.
    pub q_start: K::Buffer,
    /// u32 `[count]`.
    pub k_start: K::Buffer,
    /// u32 `[count]`.
    pub k_len: K::Buffer,
    /// Number of sequences.
    pub count: usize,
    /// Rows of q.
    pub q_tokens: usize,
    /// Rows of k and v, used or not.
    pub k_tokens: usize,
    /// Most queries of one sequence.
    pub max_q: usize,
    /// Most keys of one sequence.
    pub max_k: usize,
}

/// Causal attention, `[tokens, heads, head_dim]`, grouped query.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of one head.
    pub head_dim: usize,
    /// Multiplies the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees itself and the `window - 1` keys before it.
    pub window: Option<usize>,
    /// `softcap * tanh(score / softcap)` on scaled scores.
    pub softcap: Option<f32>,
}

impl Attention {
    /// Floating-point operations of `products` products of queries' length over these sequences, each given by
    /// its numbers of queries and of keys: every query with the keys that it sees.
    pub(crate) fn flops(
        &self,
        products: u64,
        sequences: impl Iterator<Item = (usize, usize)>,
    ) -> u64 {
        let window = self.window.unwrap_or(usize::MAX);
        // Query `j` of `q` sees `k - q + j + 1` keys, up to the window.
        let first = |end: usize| (end * (end + 1) / 2) as u64;
        let seen = |(q, k): (usize, usize)| {
            let full = k.min(window).max(k - q);
            first(full) - first(k - q) + (window.min(k) * (k - full)) as u64
        };
        let pairs: u64 = sequences.map(seen).sum();
        2 * products * pairs * (self.heads * self.head_dim) as u64
    }
}

/// Buffers of [`Backend::attention_backward`].
#[derive(Debug)]
pub struct AttentionGrads<'a, K: Backend> {
    /// Forward input `[q_tokens, heads, head_dim]`.
    pub q: &'a K::Buffer,
    /// Forward input `[k_tokens, kv_heads, head_dim]`.
    pub k: &'a K::Buffer,
    /// Forward input `[k_tokens, kv_heads, head_dim]`.
    pub v: &'a K::Buffer,
    /// Forward output.
    pub o: &'a K::Buffer,
    /// Forward log-sum-exp, f32 `[q_tokens, heads]`.
    pub lse: &'a K::Buffer,
    /// Gradient of the output.
    pub d_o: &'a K::Buffer,
    /// Gradient of q, overwritten.
    pub dq: &'a mut K::Buffer,
    /// Gradient of k, overwritten.
    pub dk: &'a mut K::Buffer,
    /// Gradient of v, overwritten.
    pub dv: &'a mut K::Buffer,
}

/// Gate activation of a gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`: `SwiGLU`.
    Silu,
    /// `gelu` in its tanh form: `GeGLU`.
    GeluTanh,
}

/// Output projection and cross-entropy in one pass over chunks of tokens: logits never exist as a
/// whole, rows whose label is [`IGNORE`] are dropped before the matmul.
#[derive(Debug)]
pub struct LinearCrossEntropy<'a, K: Backend> {
    /// Rows of the hidden states.
    pub tokens: usize,
    /// Elements of one hidden state.
    pub hidden: usize,
    /// Rows of the head.
    pub vocab: usize,
    /// Head `[vocab, hidden]`.
    pub weight: Weight<'a, K>,
    /// Multiplies the gradient: `1 / trained tokens of the accumulation window` for a mean.
    pub grad_scale: f32,
}

impl<K: Backend> LinearCrossEntropy<'_, K> {
    /// Floating-point operations for `trained` tokens, of the loss and of the gradient.
    pub(crate) fn flops(&self, trained: usize, gradient: bool) -> u64 {
        (1 + u64::from(gradient)) * product(trained, [self.hidden, self.vocab])
    }
}

/// One `AdamW` step (Loshchilov and Hutter 2019): decay first and decoupled, as torch does it.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// This step's number, from 1.
    pub step: u64,
    /// Multiplies the gradients first: the clipping factor.
    pub grad_scale: f32,
}

/// What is the same for all elements of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWFactors {
    /// Multiplies the parameter.
    pub(crate) decay: f32,
    /// The learning rate over the first moment's bias correction.
    pub(crate) step_size: f32,
    /// Root of the second moment's bias correction.
    pub(crate) v_root_correction: f32,
}

impl AdamW {
    pub(crate) fn factors(self) -> AdamWFactors {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.step as f64);
        AdamWFactors {
            decay: (1.0 - f64::from(self.lr) * f64::from(self.weight_decay)) as f32,
            step_size: (f64::from(self.lr) / correction(self.beta1)) as f32,
            v_root_correction: correction(self.beta2).sqrt() as f32,
        }
    }
}

/// One tensor of a multi-tensor `AdamW` step; all f32, same length.
#[derive(Debug)]
pub struct AdamWTensor<'a, K: Backend> {
    /// Parameter, updated.
    pub param: &'a mut K::Buffer,
    /// Gradient.
    pub grad: &'a K::Buffer,
    /// First moment, updated.
    pub m: &'a mut K::Buffer,
    /// Second moment, updated.
    pub v: &'a mut K::Buffer,
}

/// Elements of a [`Moment8`] that share one absmax.
pub const MOMENT8_BLOCK: usize = nf4::moment8::BLOCK;

/// A moment as [`nf4::moment8`] holds it.
#[derive(Debug)]
pub struct Moment8<'a, K: Backend> {
    /// u8 codes, as many as parameters.
    pub codes: &'a mut K::Buffer,
    /// f32, one for each block of [`MOMENT8_BLOCK`] codes; zero at first.
    pub absmax: &'a mut K::Buffer,
}

/// One tensor of a multi-tensor `AdamW` step with 8-bit moments, of bitsandbytes' `AdamW8bit` (Dettmers et al.
/// 2021). Decay comes first, as in its processor's kernel; on a card it decays after the update.
#[derive(Debug)]
pub struct AdamW8bitTensor<'a, K: Backend> {
    /// f32 parameter, updated.
    pub param: &'a mut K::Buffer,
    /// f32 gradient.
    pub grad: &'a K::Buffer,
    /// First moment, updated.
    pub m: Moment8<'a, K>,
    /// Second moment, updated.
    pub v: Moment8<'a, K>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys that a query sees, counted one by one.
        #[test]
        fn attention_counts_what_queries_see(
            sequences in prop::collection::vec((1..40_usize, 0..40_usize), 1..4),
            window in prop::option::of(1..50_usize),
        ) {
            let op = Attention { heads: 3, kv_heads: 1, head_dim: 8, scale: 1.0, window, softcap: None };
            let sequences: Vec<_> = sequences.into_iter().map(|(q, past)| (q, q + past)).collect();
            let seen = |q: usize, k: usize, j: usize| {
                let position = k - q + j;
                (0..k).filter(|&key| key <= position && window.is_none_or(|w| position - key < w)).count()
            };
            let pairs: usize =
                sequences.iter().flat_map(|&(q, k)| (0..q).map(move |j| (q, k, j))).map(|(q, k, j)| seen(q, k, j)).sum();
            prop_assert_eq!(op.flops(2, sequences.into_iter()), 4 * pairs as u64 * 24);
        }
    }
}
