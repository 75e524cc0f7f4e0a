//! The tape: what a forward pass did, run backwards once.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use kernels::{Backend, Buffer, DType, MemoryKind};

use crate::remake::{Made, Operand, Remake, Saved, Source};
use crate::tensor::{GradId, ValueId};
use crate::{ParamGrads, Result, Tensor, Var};

/// Element types of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Precision {
    /// Inside a layer: norms' outputs, projections, attention, MLP.
    pub activations: DType,
    /// The residual stream, which every layer adds to.
    pub residual: DType,
}

impl Precision {
    /// Everything in single precision.
    pub const F32: Self = Self { activations: DType::F32, residual: DType::F32 };
    /// bf16 inside the layers, f32 between them.
    pub const BF16: Self = Self { activations: DType::Bf16, residual: DType::F32 };
}

/// The gradient of a result, where one came back.
type Gradient<K> = Option<Arc<<K as Backend>::Buffer>>;

type BackwardFn<'m, K> = Box<dyn FnOnce(&mut Backward<'_, K>, Vec<Gradient<K>>) -> Result<()> + 'm>;

/// An operation, whose results' gradients lie one after the other.
struct Node<'m, K: Backend> {
    results: Range<usize>,
    backward: BackwardFn<'m, K>,
}

/// Records operations on [`Var`]s. `'m` is the lifetime of the weights that they borrow.
pub struct Tape<'m, K: Backend> {
    backend: K,
    precision: Precision,
    recording: bool,
    /// Whether results are kept for the backward pass.
    keeps: bool,
    remakes: Vec<Rc<Remake<'m, K>>>,
    nodes: Vec<Node<'m, K>>,
    /// How many gradients of results there will be.
    grads: usize,
    /// Gradients that operations computed in the forward pass.
    seeds: Vec<(Slot, Arc<K::Buffer>)>,
}

impl<'m, K: Backend> Tape<'m, K> {
    /// A tape that records for one backward pass.
    pub fn training(backend: &K, precision: Precision) -> Self {
        Self::new(backend, precision, true)
    }

    /// A tape that records nothing.
    pub fn inference(backend: &K, precision: Precision) -> Self {
        Self::new(backend, precision, false)
    }

    fn new(backend: &K, precision: Precision, recording: bool) -> Self {
        Self {
            backend: backend.clone(),
            precision,
            recording,
            keeps: true,
            remakes: Vec::new(),
            nodes: Vec::new(),
            grads: 0,
            seeds: Vec::new(),
        }
    }

    /// The backend that runs the operations.
    pub fn backend(&self) -> &K {
        &self.backend
    }

    /// Element types of the outputs.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether a backward pass can follow.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Whether results of the operations from here on are kept for the backward pass (as at first), or made
    /// again in it from their operands. Gradients are the same bits either way: what is made again is made by
    /// the same operation, and its randomness is drawn by counter. The weights must not change in between.
    pub fn keep(&mut self, keeps: bool) {
        self.keeps = keeps;
    }

    /// Puts a value away in the host's memory, where the backend has other memory than that: the backward brings it
    /// back when it first reads it. To be called before anything is made of `var`.
    pub fn put_away(&mut self, var: Var<K>) -> Result<Var<K>> {
        if !self.recording {
            return Ok(var);
        }
        let Some(copy) = self.backend.put_away(var.tensor.buffer())? else { return Ok(var) };
        let shape = var.tensor.shape().to_vec();
        let value = self.push_remake(1, move |backend| {
            let buffer = backend.bring_back(&copy, MemoryKind::Recomputed)?;
            Ok(vec![Tensor::new(buffer, &shape)])
        });
        Ok(Var { value: Some(value), ..var })
    }

    /// Runs the tape backwards from the losses recorded on it, adding to `grads`.
    pub fn backward(self, grads: &mut ParamGrads<K>) -> Result<()> {
        let Self { backend, nodes, grads: count, seeds, remakes, .. } = self;
        // Those that are needed are held by whoever needs them.
        drop(remakes);
        let mut pass = Backward { backend, grads: vec![None; count], params: grads };
        for (slot, grad) in seeds {
            pass.give(&slot, grad)?;
        }
        for Node { results, backward } in nodes.into_iter().rev() {
            let grads: Vec<Gradient<K>> =
                pass.grads[results].iter_mut().map(Option::take).collect();
            if grads.iter().any(Option::is_some) {
                backward(&mut pass, grads)?;
            }
        }
        Ok(())
    }

    pub(crate) fn alloc(&self, dtype: DType, len: usize) -> Result<K::Buffer> {
        Ok(self.backend.alloc(dtype, len, MemoryKind::Activations)?)
    }

    /// Whether the backward will need to make results again.
    pub(crate) fn remakes(&self) -> bool {
        self.recording && !self.keeps
    }

    /// How to make the `count` results of an operation again, where the backward will need that: the first of them.
    pub(crate) fn remake(
        &mut self,
        count: usize,
        run: impl Fn(&K) -> Result<Made<K>> + 'm,
    ) -> Option<ValueId> {
        self.remakes().then(|| self.push_remake(count, run))
    }

    fn push_remake(&mut self, count: usize, run: impl Fn(&K) -> Result<Made<K>> + 'm) -> ValueId {
        self.remakes.push(Rc::new(Remake::new(count, run)));
        ValueId { remake: self.remakes.len() - 1, which: 0 }
    }

    /// `var`, for the backward to make something else of.
    pub(crate) fn operand(&self, var: &Var<K>) -> Operand<'m, K> {
        Operand::new(self.source(var.value, &var.tensor))
    }

    /// `var`, for the backward to read.
    pub(crate) fn save(&self, var: &Var<K>) -> Saved<'m, K> {
        Saved::new(self.source(var.value, &var.tensor))
    }

    /// Result `which` of an operation, for its backward to read.
    pub(crate) fn save_result(
        &self,
        value: Option<ValueId>,
        which: usize,
        tensor: &Tensor<K>,
    ) -> Saved<'m, K> {
        Saved::new(self.source(value.map(|value| value.result(which)), tensor))
    }

    fn source(&self, value: Option<ValueId>, tensor: &Tensor<K>) -> Source<'m, K> {
        match value {
            None => Source::Kept(tensor.clone()),
            Some(ValueId { remake, which }) => {
                Source::Remade(Rc::clone(&self.remakes[remake]), which)
            }
        }
    }

    /// Makes the output of an operation; a gradient comes back for it if the tape records and `needs_grad`.
    pub(crate) fn push(
        &mut self,
        tensor: Tensor<K>,
        value: Option<ValueId>,
        needs_grad: bool,
        backward: impl FnOnce(&mut Backward<'_, K>, Arc<K::Buffer>) -> Result<()> + 'm,
    ) -> Var<K> {
        let [var] = self.push_all([(tensor, value, needs_grad)], |pass, [grad]| {
            grad.map_or(Ok(()), |grad| backward(pass, grad))
        });
        var
    }

    /// As [`push`](Self::push), for an operation of several outputs: its backward runs once, with the gradients that
    /// came back.
    pub(crate) fn push_all<const N: usize>(
        &mut self,
        results: [(Tensor<K>, Option<ValueId>, bool); N],
        backward: impl FnOnce(&mut Backward<'_, K>, [Gradient<K>; N]) -> Result<()> + 'm,
    ) -> [Var<K>; N] {
        let first = self.grads;
        let recorded = self.recording && results.iter().any(|(.., needs_grad)| *needs_grad);
        if recorded {
            self.grads += N;
            let backward: BackwardFn<'m, K> = Box::new(move |pass, grads| {
                let grads = grads.try_into().map_err(|_| ()).expect("one of each result");
                backward(pass, grads)
            });
            self.nodes.push(Node { results: first..self.grads, backward });
        }
        let mut index = first..;
        results.map(|(tensor, value, needs_grad)| {
            let grad = index.next().filter(|_| recorded && needs_grad).map(GradId);
            Var { tensor, grad, value }
        })
    }

    /// Starts the backward pass at `var` with a gradient that the forward already knows.
    pub(crate) fn seed(&mut self, var: &Var<K>, grad: K::Buffer) {
        if self.recording {
            self.seeds.push((Slot::of(var), Arc::new(grad)));
        }
    }
}

/// The state of a running backward pass, handed to each operation's closure.
pub(crate) struct Backward<'a, K: Backend> {
    pub(crate) backend: K,
    grads: Vec<Gradient<K>>,
    pub(crate) params: &'a mut ParamGrads<K>,
}

impl<K: Backend> Backward<'_, K> {
    /// Lets `write` put a gradient for `var` into a buffer; its flag says that the buffer already
    /// holds a part of the gradient, to be added to. Does nothing where no gradient is needed.
    pub(crate) fn accumulate(
        &mut self,
        var: &Slot,
        write: impl FnOnce(&mut Self, &mut K::Buffer, bool) -> Result<()>,
    ) -> Result<()> {
        if let Some((mut buffer, accumulate)) = self.take(var)? {
            write(self, &mut buffer, accumulate)?;
            self.put(var, buffer);
        }
        Ok(())
    }

    /// The buffer for the gradient of `var` and whether it already holds a part of it; `None` where
    /// no gradient is needed. [`put`](Self::put) it back.
    pub(crate) fn take(&mut self, var: &Slot) -> Result<Option<(K::Buffer, bool)>> {
        let Some(id) = var.grad else { return Ok(None) };
        match self.grads[id.0].take() {
            None => Ok(Some((self.alloc(var)?, false))),
            Some(shared) => Ok(Some((self.unshare(shared)?, true))),
        }
    }

    /// Keeps the gradient of `var`.
    pub(crate) fn put(&mut self, var: &Slot, gradient: K::Buffer) {
        if let Some(id) = var.grad {
            self.grads[id.0] = Some(Arc::new(gradient));
        }
    }

    /// Adds a whole gradient to `var`'s without a copy where it is the first.
    pub(crate) fn give(&mut self, var: &Slot, grad: Arc<K::Buffer>) -> Result<()> {
        let Some(id) = var.grad else { return Ok(()) };
        if self.grads[id.0].is_none() && grad.dtype() == var.dtype {
            self.grads[id.0] = Some(grad);
            return Ok(());
        }
        self.accumulate(var, |pass, buffer, partial| {
            if partial {
                pass.backend.add_assign(buffer, &grad)?;
            } else {
                pass.backend.convert(&grad, buffer)?;
            }
            Ok(())
        })
    }

    /// A gradient buffer for an operand that is not on the tape's way but that the kernel writes.
    pub(crate) fn alloc(&self, var: &Slot) -> Result<K::Buffer> {
        Ok(self.backend.alloc(var.dtype, var.len, MemoryKind::ActivationGradients)?)
    }

    /// A buffer to write to: the given one, where nobody else holds it.
    pub(crate) fn unshare(&self, shared: Arc<K::Buffer>) -> Result<K::Buffer> {
        unshare(&self.backend, shared, MemoryKind::ActivationGradients)
    }
}

/// A buffer to write to: the given one, where nobody else holds it, or a copy.
pub(crate) fn unshare<K: Backend>(
    backend: &K,
    shared: Arc<K::Buffer>,
    kind: MemoryKind,
) -> Result<K::Buffer> {
    Arc::try_unwrap(shared).or_else(|shared| {
        let mut own = backend.alloc(shared.dtype(), shared.len(), kind)?;
        backend.copy(&shared, 0, &mut own, 0, shared.len())?;
        Ok(own)
    })
}

/// Where a variable's gradient goes: what a backward closure keeps of it, without its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    grad: Option<GradId>,
    dtype: DType,
    len: usize,
}

impl Slot {
    pub(crate) fn of<K: Backend>(var: &Var<K>) -> Self {
        Self { grad: var.grad, dtype: var.tensor.dtype(), len: var.tensor.len() }
    }

    /// Whether a gradient flows there.
    pub(crate) fn wanted(&self) -> bool {
        self.grad.is_some()
    }
}
