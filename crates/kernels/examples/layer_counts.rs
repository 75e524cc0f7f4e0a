//! Runs the kernels of one decoder layer shaped as Llama 3 8B's, for the emulated driver to count:
//! `layer_counts forward|backward|attention|head TOKENS`. The values are arbitrary. `scripts/layer-counts.py` makes
//! bounds of the counts.

use kernels::ops::{
    Activation, Attention, AttentionGrads, Linear, LinearBackward, LinearCrossEntropy, LinearGrads,
    Lora, RmsNorm, Rope, RopeTable, Sequences, Weight,
};
use kernels::{
    Backend, Cuda, CudaBuffer, CudaQuantizedWeight, DType, HostSlice, MemoryKind, Result,
};
use nf4::{QuantConfig, QuantType};

const HIDDEN: usize = 4096;
const INTERMEDIATE: usize = 14336;
const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const KV: usize = KV_HEADS * HEAD_DIM;
/// Of 128,256: a number of whole tiles.
const VOCAB: usize = 4096;
const RANK: usize = 16;

/// A frozen linear `[n, k]` with its adapter.
struct Projection {
    n: usize,
    k: usize,
    weight: CudaQuantizedWeight,
    a: CudaBuffer,
    b: CudaBuffer,
}

/// The device and the number of tokens.
struct Layer {
    cuda: Cuda,
    tokens: usize,
}

impl Layer {
    fn bf16(&self, len: usize) -> Result<CudaBuffer> {
        self.cuda.zeros(DType::Bf16, len, MemoryKind::Activations)
    }

    fn f32(&self, len: usize) -> Result<CudaBuffer> {
        self.cuda.zeros(DType::F32, len, MemoryKind::Activations)
    }

    fn u32(&self, values: &[u32]) -> Result<CudaBuffer> {
        self.cuda.upload(HostSlice::U32(values), MemoryKind::Data)
    }

    fn projection(&self, n: usize, k: usize) -> Result<Projection> {
        let values: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
        let config = QuantConfig::new(QuantType::Nf4, 64, true).expect("the usual blocks");
        let weight = nf4::quantize("w", &values, &[n, k], &config).expect("whole blocks");
        let weight = self.cuda.upload_quantized(weight)?;
        Ok(Projection { n, k, weight, a: self.f32(RANK * k)?, b: self.f32(n * RANK)? })
    }

    fn op<'a>(&self, p: &'a Projection) -> Linear<'a, Cuda> {
        Linear {
            m: self.tokens,
            n: p.n,
            k: p.k,
            weight: Weight::Quantized(&p.weight),
            bias: None,
            lora: Some(Lora { a: &p.a, b: &p.b, r: RANK, scale: 1.0, dropout: None }),
        }
    }

    fn linear(&self, p: &Projection) -> Result<()> {
        let (x, mut y) = (self.bf16(self.tokens * p.k)?, self.bf16(self.tokens * p.n)?);
        self.cuda.linear(&self.op(p), &x, &mut y, Some(&mut self.f32(self.tokens * RANK)?))
    }

    fn linear_backward(&self, p: &Projection, accumulate_dx: bool) -> Result<()> {
        let [x, mut dx] = [self.bf16(self.tokens * p.k)?, self.bf16(self.tokens * p.k)?];
        let (dy, xa) = (self.bf16(self.tokens * p.n)?, self.f32(self.tokens * RANK)?);
        let (mut da, mut db) = (self.f32(RANK * p.k)?, self.f32(p.n * RANK)?);
        let (dx, da, db) = (Some(&mut dx), Some(&mut da), Some(&mut db));
        let grads = LinearGrads { dx, accumulate_dx, da, db };
        self.cuda.linear_backward(&self.op(p), &x, Some(&xa), &dy, grads)
    }

    /// With the gradient if `backward`.
    fn norm(&self, backward: bool) -> Result<()> {
        let op = RmsNorm { rows: self.tokens, cols: HIDDEN, eps: 1e-5 };
        let [x, dy, mut out] = self.hidden()?;
        let (weight, mut inv_rms) = (self.bf16(HIDDEN)?, self.f32(self.tokens)?);
        if backward {
            return self.cuda.rms_norm_backward(op, &x, &weight, &inv_rms, &dy, &mut out, true);
        }
        self.cuda.rms_norm(op, &x, &weight, &mut out, &mut inv_rms)
    }

    fn hidden(&self) -> Result<[CudaBuffer; 3]> {
        let new = || self.bf16(self.tokens * HIDDEN);
        Ok([new()?, new()?, new()?])
    }

    fn rope(&self, heads: usize, inverse: bool) -> Result<()> {
        let table = || self.f32(self.tokens * HEAD_DIM / 2);
        let table = RopeTable { cos: table()?, sin: table()?, positions: self.tokens };
        let positions = self.u32(&(0..self.tokens as u32).collect::<Vec<_>>())?;
        let len = self.tokens * heads * HEAD_DIM;
        let op = Rope { tokens: self.tokens, heads, head_dim: HEAD_DIM, inverse };
        self.cuda.rope(op, &table, &positions, &mut self.bf16(len)?)
    }

    fn forward(&self) -> Result<()> {
        self.recompute()?;
        let wide = || self.bf16(self.tokens * INTERMEDIATE);
        self.cuda.gated(Activation::Silu, &wide()?, &wide()?, &mut wide()?)?;
        self.linear(&self.projection(HIDDEN, INTERMEDIATE)?)?;
        let [x, o, mut sum] = self.hidden()?;
        self.cuda.add(&x, &o, &mut sum)
    }

    /// What of the forward the backward asks for: all but the last product and its sum.
    fn recompute(&self) -> Result<()> {
        self.norm(false)?;
        let square = self.projection(HIDDEN, HIDDEN)?;
        let narrow = self.projection(KV, HIDDEN)?;
        [&square, &narrow, &narrow].into_iter().try_for_each(|p| self.linear(p))?;
        self.rope(HEADS, false)?;
        self.rope(KV_HEADS, false)?;
        self.linear(&square)?;
        let [x, o, mut sum] = self.hidden()?;
        self.cuda.add(&x, &o, &mut sum)?;
        self.norm(false)?;
        let up = self.projection(INTERMEDIATE, HIDDEN)?;
        [&up, &up].into_iter().try_for_each(|p| self.linear(p))
    }

    /// With what is gated, which is made again on the way.
    fn down_backward(&self, p: &Projection) -> Result<()> {
        let wide = || self.bf16(self.tokens * p.k);
        let (mut gate, mut up, mut gated) = (wide()?, wide()?, wide()?);
        let (dy, xa) = (self.bf16(self.tokens * p.n)?, self.f32(self.tokens * RANK)?);
        let (mut da, mut db) = (self.f32(RANK * p.k)?, self.f32(p.n * RANK)?);
        let (da, db) = (Some(&mut da), Some(&mut db));
        let linear = LinearBackward { op: self.op(p), xa: Some(&xa), dy: &dy, da, db };
        let act = Activation::Silu;
        self.cuda.linear_of_gated_backward(act, &mut gate, &mut up, &mut gated, linear)
    }

    fn backward(&self) -> Result<()> {
        self.down_backward(&self.projection(HIDDEN, INTERMEDIATE)?)?;
        let up = self.projection(INTERMEDIATE, HIDDEN)?;
        self.linear_backward(&up, false)?;
        self.linear_backward(&up, true)?;
        self.norm(true)?;
        let square = self.projection(HIDDEN, HIDDEN)?;
        self.linear_backward(&square, false)?;
        self.rope(HEADS, true)?;
        self.rope(KV_HEADS, true)?;
        let narrow = self.projection(KV, HIDDEN)?;
        self.linear_backward(&square, false)?;
        self.linear_backward(&narrow, true)?;
        self.linear_backward(&narrow, true)?;
        self.norm(true)
    }

    /// One sequence, forward and backward.
    fn attention(&self) -> Result<()> {
        let scale = (HEAD_DIM as f32).sqrt().recip();
        let op = Attention {
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            scale,
            window: None,
            softcap: None,
        };
        let tokens = self.tokens;
        let sequences = Sequences {
            q_start: self.u32(&[0, tokens as u32])?,
            k_start: self.u32(&[0])?,
            k_len: self.u32(&[tokens as u32])?,
            count: 1,
            q_tokens: tokens,
            k_tokens: tokens,
            max_q: tokens,
            max_k: tokens,
        };
        let [q, mut o, d_o] = self.hidden()?;
        let (k, v) = (self.bf16(tokens * KV)?, self.bf16(tokens * KV)?);
        let mut lse = self.f32(tokens * HEADS)?;
        self.cuda.attention(op, &sequences, &q, &k, &v, &mut o, &mut lse)?;
        let (mut dq, mut dk, mut dv) =
            (self.bf16(tokens * HIDDEN)?, self.bf16(tokens * KV)?, self.bf16(tokens * KV)?);
        let (dq, dk, dv) = (&mut dq, &mut dk, &mut dv);
        let (q, k, v, o, lse, d_o) = (&q, &k, &v, &o, &lse, &d_o);
        let grads = AttentionGrads { q, k, v, o, lse, d_o, dq, dk, dv };
        self.cuda.attention_backward(op, &sequences, grads)
    }

    /// A part of the head, with its gradient.
    fn head(&self) -> Result<()> {
        let weight = self.bf16(VOCAB * HIDDEN)?;
        let op = LinearCrossEntropy {
            tokens: self.tokens,
            hidden: HIDDEN,
            vocab: VOCAB,
            weight: Weight::Dense(&weight),
            grad_scale: 1.0,
        };
        let labels = self.u32(&vec![1; self.tokens])?;
        let [x, mut dx, _] = self.hidden()?;
        let loss = &mut self.f32(self.tokens)?;
        self.cuda.linear_cross_entropy(&op, &x, &labels, loss, Some(&mut dx))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [part, tokens] = args.as_slice() else {
        return Err("usage: layer_counts forward|recompute|backward|attention|head TOKENS".into());
    };
    let layer = Layer { cuda: Cuda::new(0)?, tokens: tokens.parse()? };
    match part.as_str() {
        "forward" => layer.forward()?,
        "recompute" => layer.recompute()?,
        "backward" => layer.backward()?,
        "attention" => layer.attention()?,
        "head" => layer.head()?,
        _ => return Err(format!("{part}: forward, recompute, backward, attention or head").into()),
    }
    // Waits for the work.
    layer.cuda.download(&layer.f32(1)?)?;
    Ok(())
}
