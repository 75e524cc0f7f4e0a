//! Frozen linear with LoRA.

use super::lora::{Activations, Layout};
use super::matmul::{frozen, rows, size, transposed};
use super::params::{BlockScales, DropoutMask, MASK_EXTRA, MASK_NONE, MatmulParams, Tensor};
use super::{Cuda, CudaBuffer};
use crate::Result;
use crate::check::Op;
use crate::ops::{Dropout, Linear, LinearBackward, LinearInto, Lora};

/// Checked shape and weights.
struct Checked {
    m: usize,
    n: usize,
    k: usize,
    weight: Tensor,
    scales: BlockScales,
    lora: Option<Adapter>,
}

#[derive(Clone, Copy)]
struct Adapter {
    a: Tensor,
    b: Tensor,
    r: usize,
    scale: f32,
    mask: Option<DropoutMask>,
}

impl Checked {
    fn new(name: Op, op: &Linear<'_, Cuda>) -> Result<Self> {
        let &Linear { m, n, k, .. } = op;
        let (weight, scales) = name.weight(op.weight, n, k)?;
        let lora = op.lora.map(|lora| Adapter::new(name, lora, n, k)).transpose()?;
        Ok(Self { m, n, k, weight, scales, lora })
    }
}

impl Adapter {
    fn new(name: Op, lora: Lora<'_, Cuda>, n: usize, k: usize) -> Result<Self> {
        let r = lora.r;
        name.require(r > 0, || "the rank of an adapter is at least 1".into())?;
        Ok(Self {
            a: name.tensor("a", lora.a, r * k)?,
            b: name.tensor("b", lora.b, n * r)?,
            r,
            scale: lora.scale,
            mask: lora.dropout.map(|dropout| mask(name, dropout)).transpose()?,
        })
    }
}

fn mask(name: Op, dropout: Dropout) -> Result<DropoutMask> {
    name.dropout(dropout)?;
    let Dropout { p, key, stream } = dropout;
    Ok(DropoutMask { key, stream, threshold: dropout.threshold(), keep: 1.0 / (1.0 - p) })
}

/// Linears of one input.
pub(super) fn forward(
    cuda: &Cuda,
    x: &CudaBuffer,
    linears: &mut [LinearInto<'_, Cuda>],
) -> Result<()> {
    let Some(&LinearInto { op: Linear { m, k, .. }, .. }) = linears.first() else {
        return Ok(());
    };
    let products = linears.iter_mut().map(|linear| {
        Op("linear").one_input(&linear.op, (m, k))?;
        product(cuda, x, linear)
    });
    let products = products.collect::<Result<Vec<_>>>()?;
    frozen(cuda, &products)
}

/// The product with the weight that is left to do once `xa` is submitted.
fn product(cuda: &Cuda, x: &CudaBuffer, linear: &mut LinearInto<'_, Cuda>) -> Result<MatmulParams> {
    let name = Op("linear");
    let LinearInto { op, y, xa } = linear;
    let checked = Checked::new(name, op)?;
    let Checked { m, n, k, .. } = checked;
    let x = name.tensor("x", x, m * k)?;
    let out = name.tensor("y", y, m * n)?;
    let bias = op.bias.map(|bias| name.tensor("bias", bias, n)).transpose()?;
    name.require(checked.lora.is_some() == xa.is_some(), || {
        "`xa` is needed with an adapter, and only then".into()
    })?;
    let mut product = MatmulParams {
        a: rows(x, k),
        b: transposed(checked.weight, k),
        scales: checked.scales,
        out,
        bias: bias.unwrap_or_default(),
        ..size(m, n, k)
    };
    if let (Some(adapter), Some(xa)) = (checked.lora, xa) {
        let r = adapter.r;
        name.single("xa", xa, m * r)?;
        let xa = xa.tensor();
        let input = Activations { x, mask: adapter.mask, m, k };
        input.shrink(cuda, (adapter.a, Layout::RankByK), r, xa)?;
        product.extra_a = rows(xa, r);
        product.extra_b = transposed(adapter.b, r);
        product.extra_k = r as u64;
        product.extra_alpha = adapter.scale;
    }
    Ok(product)
}

/// Gradients of linears of one input, one after the other.
pub(super) fn backward(
    cuda: &Cuda,
    x: &CudaBuffer,
    linears: &mut [LinearBackward<'_, Cuda>],
    mut dx: Option<&mut CudaBuffer>,
    accumulate_dx: bool,
) -> Result<()> {
    let Some(&LinearBackward { op: Linear { m, k, .. }, .. }) = linears.first() else {
        return Ok(());
    };
    for (i, linear) in linears.iter_mut().enumerate() {
        Op("linear_backward").one_input(&linear.op, (m, k))?;
        backward_one(cuda, x, linear, dx.as_deref_mut(), accumulate_dx || i > 0)?;
    }
    Ok(())
}

fn backward_one(
    cuda: &Cuda,
    x: &CudaBuffer,
    LinearBackward { op, xa, dy, da, db }: &mut LinearBackward<'_, Cuda>,
    dx: Option<&mut CudaBuffer>,
    accumulate_dx: bool,
) -> Result<()> {
    let name = Op("linear_backward");
    let checked = Checked::new(name, op)?;
    let Checked { m, n, k, .. } = checked;
    let x = name.tensor("x", x, m * k)?;
    let dy = name.tensor("dy", dy, m * n)?;
    let dx = dx.map(|dx| name.tensor("dx", dx, m * k)).transpose()?;
    let input_gradient = |out| MatmulParams {
        a: rows(dy, n),
        b: rows(checked.weight, k),
        scales: checked.scales,
        out,
        accumulate: accumulate_dx.into(),
        ..size(m, k, n)
    };
    let Some(adapter) = checked.lora else {
        name.require(da.is_none() && db.is_none(), || {
            "there is no adapter whose gradients could be written to `da` and `db`".into()
        })?;
        return dx.map_or(Ok(()), |dx| frozen(cuda, &[input_gradient(dx)]));
    };
    let (r, alpha) = (adapter.r, adapter.scale);
    let da = da.as_mut().map(|da| name.tensor("da", da, r * k)).transpose()?;
    let db = db.as_mut().map(|db| name.tensor("db", db, n * r)).transpose()?;
    let xa = xa.map(|xa| name.single("xa", xa, m * r).map(|_| xa.tensor())).transpose()?;
    let gradient = Activations { x: dy, mask: None, m, k: n };
    let input = Activations { x, mask: adapter.mask, m, k };
    if let Some(db) = db {
        // Held until what reads it is submitted.
        let own = cuda.scratch(if xa.is_none() { m * r } else { 0 })?;
        let xa = if let Some(xa) = xa {
            xa
        } else {
            input.shrink(cuda, (adapter.a, Layout::RankByK), r, own.tensor())?;
            own.tensor()
        };
        gradient.gradient(cuda, xa, r, (db, Layout::KByRank), alpha)?;
    }
    if dx.is_none() && da.is_none() {
        return Ok(());
    }
    // Held until what reads it is submitted.
    let scratch = cuda.scratch(m * r)?;
    let dyb = scratch.tensor();
    gradient.shrink(cuda, (adapter.b, Layout::KByRank), r, dyb)?;
    if let Some(da) = da {
        input.gradient(cuda, dyb, r, (da, Layout::RankByK), alpha)?;
    }
    if let Some(out) = dx {
        let (masked, mask) =
            adapter.mask.map_or((MASK_NONE, DropoutMask::default()), |mask| (MASK_EXTRA, mask));
        let delta = MatmulParams {
            extra_a: rows(dyb, r),
            extra_b: rows(adapter.a, k),
            extra_k: r as u64,
            extra_alpha: alpha,
            masked,
            mask,
            ..input_gradient(out)
        };
        frozen(cuda, &[delta])?;
    }
    Ok(())
}
