//! Trainable tensors and their gradients.

use kernels::{Backend, Buffer, DType, MemoryKind};

use crate::Result;

/// Index of a parameter in its [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// A trainable f32 tensor.
#[derive(Debug)]
pub struct Param<K: Backend> {
    /// Name in files, e.g. `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// f32 values.
    pub value: K::Buffer,
}

/// All trainable tensors, in a fixed order.
#[derive(Debug)]
pub struct Params<K: Backend> {
    list: Vec<Param<K>>,
}

impl<K: Backend> Default for Params<K> {
    fn default() -> Self {
        Self { list: Vec::new() }
    }
}

impl<K: Backend> Params<K> {
    /// Adds a parameter.
    pub fn push(&mut self, param: Param<K>) -> ParamId {
        self.list.push(param);
        ParamId(self.list.len() - 1)
    }

    /// One parameter.
    ///
    /// # Panics
    /// If `id` comes from another set.
    pub fn get(&self, id: ParamId) -> &Param<K> {
        &self.list[id.0]
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Param<K>> {
        self.list.iter()
    }

    /// All, in order, to be updated.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param<K>> {
        self.list.iter_mut()
    }

    /// How many tensors.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many elements in all.
    pub fn numel(&self) -> usize {
        self.list.iter().map(|p| p.value.len()).sum()
    }
}

/// f32 gradients of a [`Params`], gathered over an accumulation window.
#[derive(Debug)]
pub struct ParamGrads<K: Backend> {
    list: Vec<K::Buffer>,
}

impl<K: Backend> ParamGrads<K> {
    /// Zero gradients for every parameter.
    pub fn zeros(backend: &K, params: &Params<K>) -> Result<Self> {
        let zeros = |p: &Param<K>| backend.zeros(DType::F32, p.value.len(), MemoryKind::Gradients);
        Ok(Self { list: params.iter().map(zeros).collect::<Result<_, _>>()? })
    }

    /// The gradient of one parameter.
    ///
    /// # Panics
    /// If `id` comes from another set.
    pub fn get(&self, id: ParamId) -> &K::Buffer {
        &self.list[id.0]
    }

    /// Gradients of pairs of parameters.
    ///
    /// # Panics
    /// If a parameter is named twice or comes from another set.
    pub(crate) fn pairs_mut(
        &mut self,
        pairs: impl Iterator<Item = [ParamId; 2]>,
    ) -> Vec<[&mut K::Buffer; 2]> {
        let mut all: Vec<Option<&mut K::Buffer>> = self.list.iter_mut().map(Some).collect();
        let mut one = |id: ParamId| all[id.0].take().expect("a parameter is named once");
        pairs.map(|pair| pair.map(&mut one)).collect()
    }

    /// All gradients, in the parameters' order.
    pub fn buffers(&self) -> &[K::Buffer] {
        &self.list
    }

    /// Multiplies all gradients.
    pub fn scale(&mut self, backend: &K, factor: f32) -> Result<()> {
        for grad in &mut self.list {
            backend.scale(grad, factor)?;
        }
        Ok(())
    }

    /// Square root of the sum of all squares.
    pub fn global_norm(&self, backend: &K) -> Result<f64> {
        let all: Vec<&K::Buffer> = self.list.iter().collect();
        Ok(backend.squared_norm(&all)?.sqrt())
    }
}
