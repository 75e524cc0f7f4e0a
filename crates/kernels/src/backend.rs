//! The boundary between the numbers and everything above them.

use crate::ops::{
    Activation, AdamW, AdamW8bitTensor, AdamWTensor, Attention, AttentionGrads, Linear,
    LinearBackward, LinearCrossEntropy, LinearGrads, LinearInto, RmsNorm, Rope, RopeTable,
    Sequences,
};
use crate::{Buffer, DType, Error, HostSlice, LayerMemory, MemoryKind, MemoryUsage, Result};

/// A device that stores buffers and runs operations on them.
///
/// Operations write into buffers that the caller allocated, so that every byte of a training step
/// is visible as an [`alloc`](Self::alloc). Matrices are row-major. Float operands may be f32 or
/// bf16, each on its own, unless an operation says otherwise; arithmetic is in f32 and rounds once,
/// at the store. Results do not depend on the number of threads.
pub trait Backend: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// Flat typed storage.
    type Buffer: Buffer;
    /// A frozen 4-bit weight in the layout this backend multiplies from.
    type QuantizedWeight: std::fmt::Debug + Send + Sync;
    /// A buffer's content in the host's memory.
    type HostCopy: std::fmt::Debug + Send + Sync;

    /// Float type of activations that this backend is made for: what to train in where nobody asks
    /// for another.
    fn activations(&self) -> DType;

    /// Runs `work`, which is a training step or the like, with what it submits handed to the device in large
    /// pieces, where the device takes such: graphs, on CUDA. Results are the same.
    ///
    /// Errors are those of `work`, or of handing over what it submitted.
    fn in_graphs<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        work()
    }

    /// Live and peak bytes of all buffers and quantised weights, and the work done.
    fn memory(&self) -> MemoryUsage;
    /// Forgets the peak and the work so far.
    fn reset_peak(&self);
    /// Begins a layer of a forward pass, whose activations are counted for it until what is returned is dropped.
    fn layer(&self, index: usize) -> LayerMemory<'_>;
    /// Whether buffers are in the host's memory, so that what the program keeps there leaves less for them.
    fn shares_host_memory(&self) -> bool;
    /// Bytes that buffers can have besides those there are; `None` where nobody knows.
    fn free_memory(&self) -> Option<usize>;
    /// Gives up to about `bytes` that no buffer uses back to the system, where buffers share memory with the program:
    /// before it makes a large copy of its own. They come again as buffers need them.
    fn give_back(&self, _bytes: usize) {}
    /// Makes sure of `bytes` bytes in one piece for all buffers to come, where none has been made yet.
    fn reserve(&self, bytes: usize) -> Result<()>;

    /// A backend that goes through the motions: it allocates, checks and counts as this one does, in the same
    /// places, but has no memory and computes nothing; values that it hands out are zeros. What a training step
    /// takes is found by running that step on it.
    #[must_use]
    fn dry_run(&self) -> Self;
    /// Whether this is one.
    fn is_dry_run(&self) -> bool;
    /// Allocates `len` elements of unspecified content.
    fn alloc(&self, dtype: DType, len: usize, kind: MemoryKind) -> Result<Self::Buffer>;
    /// Allocates `len` zeros.
    fn zeros(&self, dtype: DType, len: usize, kind: MemoryKind) -> Result<Self::Buffer>;
    /// Copies host data into a new buffer of the same element type.
    fn upload(&self, data: HostSlice<'_>, kind: MemoryKind) -> Result<Self::Buffer>;
    /// Takes a quantised weight over.
    fn upload_quantized(&self, weight: nf4::QuantizedTensor) -> Result<Self::QuantizedWeight>;
    /// Quantises a weight of `shape` given in row-major order, bit for bit as [`nf4::quantize`] does;
    /// `name` is used in errors only.
    fn quantize(
        &self,
        name: &str,
        weight: nf4::Elements<'_>,
        shape: &[usize],
        config: &nf4::QuantConfig,
    ) -> Result<Self::QuantizedWeight> {
        self.upload_quantized(weight.quantize(name, shape, config)?)
    }
    /// Copies a buffer of floats or of codes to the host, widened to f32.
    fn download(&self, buffer: &Self::Buffer) -> Result<Vec<f32>>;
    /// Copies a buffer to the host's memory, to be [brought back](Self::bring_back) bit for bit; nothing where buffers
    /// [are there](Self::shares_host_memory) already.
    fn put_away(&self, buffer: &Self::Buffer) -> Result<Option<Self::HostCopy>>;
    /// A new buffer with what was put away.
    fn bring_back(&self, copy: &Self::HostCopy, kind: MemoryKind) -> Result<Self::Buffer>;
    /// `dst[dst_start..dst_start + len] = src[src_start..src_start + len]`, same element type.
    fn copy(
        &self,
        src: &Self::Buffer,
        src_start: usize,
        dst: &mut Self::Buffer,
        dst_start: usize,
        len: usize,
    ) -> Result<()>;

    /// `out[i, :] = table[ids[i], :]`; `ids` u32 `[rows]`, `table` `[table_rows, cols]`. Also
    /// picks rows of hidden states.
    fn gather_rows(
        &self,
        table: &Self::Buffer,
        ids: &Self::Buffer,
        cols: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `out = x + y`, all of one length.
    fn add(&self, x: &Self::Buffer, y: &Self::Buffer, out: &mut Self::Buffer) -> Result<()>;
    /// `out = x`, each element rounded to the type of `out`.
    fn convert(&self, x: &Self::Buffer, out: &mut Self::Buffer) -> Result<()>;
    /// `acc += x`.
    fn add_assign(&self, acc: &mut Self::Buffer, x: &Self::Buffer) -> Result<()>;
    /// `x *= factor`.
    fn scale(&self, x: &mut Self::Buffer, factor: f32) -> Result<()>;

    /// `y = x / sqrt(mean(x^2) + eps) * weight` by row (Zhang and Sennrich 2019); `inv_rms` f32
    /// `[rows]` is kept for the backward.
    fn rms_norm(
        &self,
        op: RmsNorm,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        y: &mut Self::Buffer,
        inv_rms: &mut Self::Buffer,
    ) -> Result<()>;
    /// `sum = x + added`, and [`rms_norm`](Self::rms_norm) of the sum: the bits of the one after the other.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    fn add_rms_norm(
        &self,
        op: RmsNorm,
        x: &Self::Buffer,
        added: &Self::Buffer,
        weight: &Self::Buffer,
        sum: &mut Self::Buffer,
        y: &mut Self::Buffer,
        inv_rms: &mut Self::Buffer,
    ) -> Result<()> {
        self.add(x, added, sum)?;
        self.rms_norm(op, sum, weight, y, inv_rms)
    }
    /// Gradient of the input; added to `dx` when `accumulate`.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    fn rms_norm_backward(
        &self,
        op: RmsNorm,
        x: &Self::Buffer,
        weight: &Self::Buffer,
        inv_rms: &Self::Buffer,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<()>;

    /// Frozen linears of one input with their adapters: the bits of the one after the other. With LoRA, `xa` (f32
    /// `[m, r]`) receives `dropout(x) . A^T`, which the backward reads; without, it is `None`.
    fn linears(&self, x: &Self::Buffer, linears: &mut [LinearInto<'_, Self>]) -> Result<()>;
    /// [`linears`](Self::linears) of one.
    fn linear(
        &self,
        op: &Linear<'_, Self>,
        x: &Self::Buffer,
        y: &mut Self::Buffer,
        xa: Option<&mut Self::Buffer>,
    ) -> Result<()> {
        self.linears(x, &mut [LinearInto { op: *op, y, xa }])
    }
    /// Gradients of [`linears`](Self::linears): `dX`, the sum over all of `dY.W + scale * mask((dY.B).A)`, and of each
    /// `dA += scale * (dY.B)^T . dropout(X)` and `dB += scale * dY^T . xa`. How often the sum is rounded on its way is
    /// the backend's choice. Without the forward's `xa` it is computed again.
    fn linears_backward(
        &self,
        x: &Self::Buffer,
        linears: &mut [LinearBackward<'_, Self>],
        dx: Option<&mut Self::Buffer>,
        accumulate_dx: bool,
    ) -> Result<()>;
    /// [`linears_backward`](Self::linears_backward) of one.
    fn linear_backward(
        &self,
        op: &Linear<'_, Self>,
        x: &Self::Buffer,
        xa: Option<&Self::Buffer>,
        dy: &Self::Buffer,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        let LinearGrads { dx, accumulate_dx, da, db } = grads;
        let linear = LinearBackward { op: *op, xa, dy, da, db };
        self.linears_backward(x, &mut [linear], dx, accumulate_dx)
    }

    /// Rotates `x` in place; `positions` u32 `[tokens]` indexes the table.
    fn rope(
        &self,
        op: Rope,
        table: &RopeTable<Self>,
        positions: &Self::Buffer,
        x: &mut Self::Buffer,
    ) -> Result<()>;

    /// `o = softmax(mask(scale * q.k^T)) . v` by sequence; `lse` f32 `[q_tokens, heads]` is the
    /// log-sum-exp of each row of scores. Never holds a whole score matrix of all heads.
    #[expect(clippy::too_many_arguments, reason = "each is a tensor of the formula")]
    fn attention(
        &self,
        op: Attention,
        sequences: &Sequences<Self>,
        q: &Self::Buffer,
        k: &Self::Buffer,
        v: &Self::Buffer,
        o: &mut Self::Buffer,
        lse: &mut Self::Buffer,
    ) -> Result<()>;
    /// Gradients of [`attention`](Self::attention), scores recomputed from `lse`.
    fn attention_backward(
        &self,
        op: Attention,
        sequences: &Sequences<Self>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()>;

    /// `out = act(gate) * up`.
    fn gated(
        &self,
        act: Activation,
        gate: &Self::Buffer,
        up: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<()>;
    /// Turns the inputs of [`gated`](Self::gated) into their gradients, and the gradient of its output into the output,
    /// in place: an MLP's are the widest of a layer.
    fn gated_backward(
        &self,
        act: Activation,
        gate: &mut Self::Buffer,
        up: &mut Self::Buffer,
        d_out: &mut Self::Buffer,
    ) -> Result<()>;
    /// Gradients of a linear of [`gated`](Self::gated), which nobody kept: turns `gate` and `up` into their gradients,
    /// adds to those of the adapter, and leaves in `gated` what it was.
    fn linear_of_gated_backward(
        &self,
        act: Activation,
        gate: &mut Self::Buffer,
        up: &mut Self::Buffer,
        gated: &mut Self::Buffer,
        linear: LinearBackward<'_, Self>,
    ) -> Result<()>;

    /// Cross-entropy of `softmax(x . W^T)` against `labels` (u32 `[tokens]`, [`IGNORE`] skips):
    /// `token_loss` f32 `[tokens]` receives the negative log-probability of each label, 0 where
    /// ignored; `dx`, if asked for, the gradient times `grad_scale` (0 where ignored).
    ///
    /// [`IGNORE`]: crate::ops::IGNORE
    fn linear_cross_entropy(
        &self,
        op: &LinearCrossEntropy<'_, Self>,
        x: &Self::Buffer,
        labels: &Self::Buffer,
        token_loss: &mut Self::Buffer,
        dx: Option<&mut Self::Buffer>,
    ) -> Result<()>;

    /// Sum of the squares of all elements of all buffers, in a fixed order.
    fn squared_norm(&self, buffers: &[&Self::Buffer]) -> Result<f64>;
    /// One optimizer step over all tensors.
    fn adamw(&self, op: AdamW, tensors: &mut [AdamWTensor<'_, Self>]) -> Result<()>;
    /// The same over tensors with 8-bit moments: restored, updated in f32, and taken to codes again.
    /// Where a gradient is not finite the moments become zero and the parameter stays. All backends
    /// give the same bits.
    fn adamw_8bit(&self, op: AdamW, tensors: &mut [AdamW8bitTensor<'_, Self>]) -> Result<()>;
}
