//! Frozen linear with LoRA.

use super::elementwise;
use super::lora::{Activations, Layout};
use super::matmul::{frozen, rows, size, transposed};
use super::params::{BlockScales, DropoutMask, MASK_EXTRA, MatmulParams, Tensor};
use super::{Cuda, CudaBuffer};
use crate::Result;
use crate::check::Op;
use crate::ops::{Activation, Dropout, Linear, LinearBackward, LinearInto, Lora};

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
    let name = Op("linear_backward");
    let Some(&LinearBackward { op: Linear { m, k, .. }, .. }) = linears.first() else {
        return Ok(());
    };
    let x = name.tensor("x", x, m * k)?;
    for (i, linear) in linears.iter_mut().enumerate() {
        name.one_input(&linear.op, (m, k))?;
        let dx = dx.as_deref_mut().map(|dx| name.tensor("dx", dx, m * k)).transpose()?;
        let gradients = Gradients::new(name, linear)?;
        let dyb = gradients.input(cuda, dx, accumulate_dx || i > 0)?;
        gradients.factors(cuda, x, &dyb)?;
    }
    Ok(())
}

/// Gradients of a linear of `act(gate) * up`, which takes the place of its gradient in `gated`.
pub(super) fn backward_of_gated(
    cuda: &Cuda,
    act: Activation,
    [gate, up, gated]: [&mut CudaBuffer; 3],
    linear: &mut LinearBackward<'_, Cuda>,
) -> Result<()> {
    let name = Op("linear_of_gated_backward");
    let x = name.tensor("gated", gated, linear.op.m * linear.op.k)?;
    let gradients = Gradients::new(name, linear)?;
    let dyb = gradients.input(cuda, Some(x), false)?;
    elementwise::gated_backward(cuda, act, gate, up, gated)?;
    gradients.factors(cuda, x, &dyb)
}

/// Checked operands of the gradients of one linear.
struct Gradients {
    checked: Checked,
    dy: Tensor,
    xa: Option<Tensor>,
    da: Option<Tensor>,
    db: Option<Tensor>,
}

impl Gradients {
    fn new(name: Op, linear: &mut LinearBackward<'_, Cuda>) -> Result<Self> {
        let LinearBackward { op, xa, dy, da, db } = linear;
        let checked = Checked::new(name, op)?;
        let Checked { m, n, k, .. } = checked;
        name.require(checked.lora.is_some() || (da.is_none() && db.is_none()), || {
            "there is no adapter whose gradients could be written to `da` and `db`".into()
        })?;
        let r = checked.lora.map_or(0, |adapter| adapter.r);
        Ok(Self {
            dy: name.tensor("dy", dy, m * n)?,
            xa: xa.map(|xa| name.single("xa", xa, m * r).map(|_| xa.tensor())).transpose()?,
            da: da.as_mut().map(|da| name.tensor("da", da, r * k)).transpose()?,
            db: db.as_mut().map(|db| name.tensor("db", db, n * r)).transpose()?,
            checked,
        })
    }

    /// The gradient of the input, if it is wanted, and `dY . B` where somebody reads it.
    fn input(&self, cuda: &Cuda, dx: Option<Tensor>, accumulate: bool) -> Result<CudaBuffer> {
        let &Self { ref checked, dy, da, .. } = self;
        let &Checked { m, n, k, lora, .. } = checked;
        let adapter = lora.filter(|_| dx.is_some() || da.is_some());
        let dyb = cuda.scratch(adapter.map_or(0, |adapter| m * adapter.r))?;
        if let Some(Adapter { b, r, .. }) = adapter {
            let gradient = Activations { x: dy, mask: None, m, k: n };
            gradient.shrink(cuda, (b, Layout::KByRank), r, dyb.tensor())?;
        }
        let Some(out) = dx else { return Ok(dyb) };
        let mut product = MatmulParams {
            a: rows(dy, n),
            b: rows(checked.weight, k),
            scales: checked.scales,
            out,
            accumulate: accumulate.into(),
            ..size(m, k, n)
        };
        if let Some(Adapter { a, r, scale, mask, .. }) = adapter {
            product.extra_a = rows(dyb.tensor(), r);
            product.extra_b = rows(a, k);
            product.extra_k = r as u64;
            product.extra_alpha = scale;
            if let Some(mask) = mask {
                (product.masked, product.mask) = (MASK_EXTRA, mask);
            }
        }
        frozen(cuda, &[product])?;
        Ok(dyb)
    }

    /// Of the factors, as far as they are wanted.
    fn factors(&self, cuda: &Cuda, x: Tensor, dyb: &CudaBuffer) -> Result<()> {
        let &Self { ref checked, dy, xa, da, db } = self;
        let &Checked { m, n, k, .. } = checked;
        let Some(Adapter { a, r, scale, mask, .. }) = checked.lora else { return Ok(()) };
        let input = Activations { x, mask, m, k };
        if let Some(db) = db {
            // Held until what reads it is submitted.
            let own = cuda.scratch(if xa.is_none() { m * r } else { 0 })?;
            let xa = if let Some(xa) = xa {
                xa
            } else {
                input.shrink(cuda, (a, Layout::RankByK), r, own.tensor())?;
                own.tensor()
            };
            let gradient = Activations { x: dy, mask: None, m, k: n };
            gradient.gradient(cuda, xa, r, (db, Layout::KByRank), scale)?;
        }
        match da {
            Some(da) => input.gradient(cuda, dyb.tensor(), r, (da, Layout::RankByK), scale),
            None => Ok(()),
        }
    }
}
