//! What a backward pass reads of the forward: kept until then, or made again when it is first asked for.
//!
//! Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", by tensor: each operation whose
//! results are not kept leaves behind how to make them from its own operands. What nobody asks for is not
//! made, such as the last product of a layer whose input alone was kept.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use kernels::Backend;

use crate::{Result, Tensor};

/// Results of one operation: its output, and what its backward needs beside it.
pub(crate) type Made<K> = Vec<Tensor<K>>;

type Run<'m, K> = dyn Fn(&K) -> Result<Made<K>> + 'm;

/// How to make the results of an operation again.
pub(crate) struct Remake<'m, K: Backend> {
    run: Box<Run<'m, K>>,
    results: Vec<Remade<K>>,
}

/// A result that is not kept.
struct Remade<K: Backend> {
    /// Made again, for readers that are still to come.
    tensor: RefCell<Option<Tensor<K>>>,
    /// Who will read it: steps of the backward pass, and operations that others are made again by.
    readers: Cell<usize>,
}

impl<'m, K: Backend> Remake<'m, K> {
    /// `run` makes `count` results.
    pub(crate) fn new(count: usize, run: impl Fn(&K) -> Result<Made<K>> + 'm) -> Self {
        let results =
            std::iter::repeat_with(|| Remade { tensor: RefCell::new(None), readers: Cell::new(0) });
        Self { run: Box::new(run), results: results.take(count).collect() }
    }

    fn get(&self, backend: &K, which: usize) -> Result<Tensor<K>> {
        if let Some(tensor) = self.made(which) {
            return Ok(tensor);
        }
        let made = (self.run)(backend)?;
        for (result, tensor) in self.results.iter().zip(&made) {
            if result.readers.get() > 0 {
                result.tensor.replace(Some(tensor.clone()));
            }
        }
        Ok(made.into_iter().nth(which).expect("as many as were promised"))
    }

    fn made(&self, which: usize) -> Option<Tensor<K>> {
        self.results[which].tensor.borrow().clone()
    }
}

/// Where the value of a tensor comes from in the backward pass.
pub(crate) enum Source<'m, K: Backend> {
    /// It is kept.
    Kept(Tensor<K>),
    /// A result of an operation to be run again.
    Remade(Rc<Remake<'m, K>>, usize),
}

impl<K: Backend> Clone for Source<'_, K> {
    fn clone(&self) -> Self {
        match self {
            Self::Kept(tensor) => Self::Kept(tensor.clone()),
            Self::Remade(remake, which) => Self::Remade(Rc::clone(remake), *which),
        }
    }
}

impl<K: Backend> Source<'_, K> {
    /// The value; whatever it takes to make it is not kept for itself.
    fn get(&self, backend: &K) -> Result<Tensor<K>> {
        match self {
            Self::Kept(tensor) => Ok(tensor.clone()),
            Self::Remade(remake, which) => remake.get(backend, *which),
        }
    }
}

/// A value that a step of the backward pass reads: once made, it stays until the last reader is done.
pub(crate) struct Saved<'m, K: Backend>(Source<'m, K>);

impl<'m, K: Backend> Saved<'m, K> {
    pub(crate) fn new(source: Source<'m, K>) -> Self {
        if let Source::Remade(remake, which) = &source {
            let readers = &remake.results[*which].readers;
            readers.set(readers.get() + 1);
        }
        Self(source)
    }

    pub(crate) fn get(&self, backend: &K) -> Result<Tensor<K>> {
        self.0.get(backend)
    }

    /// The value, which this reader needs no more afterwards.
    pub(crate) fn take(self, backend: &K) -> Result<Tensor<K>> {
        self.get(backend)
    }

    /// The value if nothing has to be run for it.
    pub(crate) fn at_hand(&self) -> Option<Tensor<K>> {
        match &self.0 {
            Source::Kept(tensor) => Some(tensor.clone()),
            Source::Remade(remake, which) => remake.made(*which),
        }
    }
}

impl<K: Backend> Drop for Saved<'_, K> {
    fn drop(&mut self) {
        let Source::Remade(remake, which) = &self.0 else { return };
        let result = &remake.results[*which];
        result.readers.set(result.readers.get() - 1);
        if result.readers.get() == 0 {
            result.tensor.replace(None);
        }
    }
}

/// A value that another is made again of: an operation may make it along with others, and it stays until then.
pub(crate) struct Operand<'m, K: Backend> {
    source: Source<'m, K>,
    waiting: Cell<Option<Saved<'m, K>>>,
}

impl<'m, K: Backend> Operand<'m, K> {
    pub(crate) fn new(source: Source<'m, K>) -> Self {
        Self { waiting: Cell::new(Some(Saved::new(source.clone()))), source }
    }

    /// The value, for which nobody waits here afterwards.
    pub(crate) fn get(&self, backend: &K) -> Result<Tensor<K>> {
        let value = self.source.get(backend)?;
        self.waiting.take();
        Ok(value)
    }
}
