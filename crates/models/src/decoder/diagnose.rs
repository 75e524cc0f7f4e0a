//! Where a forward pass first goes wrong: looked for once a loss is not finite, never before.

use std::fmt;

use autograd::{Precision, Tape, Var};
use kernels::{Backend, HostSlice};

use super::finite::first_not_finite;
use super::{Adapter, Decoder, ForwardOptions, Inputs};
use crate::Result;

/// A part of the forward pass, by what comes out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A decoder layer, counted from 0 as in the names of its weights.
    Layer(usize),
    /// The norm after the last layer.
    FinalNorm,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(index) => write!(f, "model.layers.{index}"),
            Self::FinalNorm => f.write_str("model.norm"),
        }
    }
}

impl<K: Backend> Decoder<K> {
    /// Runs [`hidden`](Self::hidden) again without a tape and looks at what comes out of each stage; `None` where all
    /// of it is finite, so that what is not comes from the head. Copies the residual stream to the host after each
    /// layer: for a run that has gone wrong.
    pub fn first_not_finite(
        &self,
        precision: Precision,
        inputs: &Inputs<K>,
        adapter: Option<&Adapter<K>>,
        options: ForwardOptions,
    ) -> Result<Option<Stage>> {
        let mut tape = Tape::inference(&self.backend, precision);
        let mut found = None;
        self.stages(&mut tape, inputs, adapter, options, |stage, x| {
            if found.is_none() && !self.is_finite(x)? {
                found = Some(stage);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn is_finite(&self, x: &Var<K>) -> Result<bool> {
        let values = self.backend.download(x.tensor().buffer())?;
        Ok(first_not_finite(HostSlice::F32(&values)).is_none())
    }
}
