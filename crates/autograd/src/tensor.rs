//! Immutable tensors, and variables on a tape.

use std::sync::Arc;

use kernels::{Backend, Buffer, DType};

/// A backend buffer with a shape; cheap to clone, never written after it was made.
#[derive(Debug)]
pub struct Tensor<K: Backend> {
    buffer: Arc<K::Buffer>,
    shape: Vec<usize>,
}

impl<K: Backend> Clone for Tensor<K> {
    fn clone(&self) -> Self {
        Self { buffer: Arc::clone(&self.buffer), shape: self.shape.clone() }
    }
}

impl<K: Backend> Tensor<K> {
    /// Wraps a buffer of `shape.product()` elements.
    pub fn new(buffer: K::Buffer, shape: &[usize]) -> Self {
        debug_assert_eq!(buffer.len(), shape.iter().product::<usize>());
        Self { buffer: Arc::new(buffer), shape: shape.to_vec() }
    }

    /// The storage.
    pub fn buffer(&self) -> &K::Buffer {
        &self.buffer
    }

    /// The storage, shared with whoever else holds the tensor.
    pub(crate) fn into_buffer(self) -> Arc<K::Buffer> {
        self.buffer
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Size of the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }
}

/// Index of the gradient of an operation's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GradId(pub(crate) usize);

/// A result of an operation of a tape whose results are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueId {
    /// Index of the operation.
    pub(crate) remake: usize,
    /// Which of its results.
    pub(crate) which: usize,
}

impl ValueId {
    /// Another result of the same operation.
    pub(crate) fn result(self, which: usize) -> Self {
        Self { which, ..self }
    }
}

/// A tensor, and where its gradient is gathered if one must flow there.
#[derive(Debug)]
pub struct Var<K: Backend> {
    pub(crate) tensor: Tensor<K>,
    pub(crate) grad: Option<GradId>,
    /// Where its value comes from in the backward pass; `None` where it is kept.
    pub(crate) value: Option<ValueId>,
}

impl<K: Backend> Clone for Var<K> {
    fn clone(&self) -> Self {
        Self { tensor: self.tensor.clone(), grad: self.grad, value: self.value }
    }
}

impl<K: Backend> Var<K> {
    /// A tensor that needs no gradient.
    pub fn constant(tensor: Tensor<K>) -> Self {
        Self { tensor, grad: None, value: None }
    }

    /// The value.
    pub fn tensor(&self) -> &Tensor<K> {
        &self.tensor
    }

    /// Whether a gradient flows here.
    pub fn requires_grad(&self) -> bool {
        self.grad.is_some()
    }

    /// The same elements under another shape.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[must_use]
    pub fn reshape(mut self, shape: &[usize]) -> Self {
        assert_eq!(self.tensor.len(), shape.iter().product::<usize>());
        self.tensor.shape = shape.to_vec();
        self
    }
}
