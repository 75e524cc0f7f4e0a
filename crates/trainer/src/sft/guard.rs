//! Steps that must not be taken, and steps that changed nothing.

use anyhow::{Result, bail};
use autograd::ParamGrads;
use data::Window;
use data::rows::Place;
use kernels::Backend;
use models::decoder::Adapter;

/// Rows that a message names.
const NAMED: usize = 8;

/// What first was not finite in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum NotFinite {
    /// A weight of the adapter, from an update before.
    Weight {
        /// Its parameter.
        param: String,
    },
    /// The loss.
    Loss {
        /// The first micro-batch of the step with such a loss, counted from 1.
        micro_batch: usize,
        /// Micro-batches of the step.
        of: usize,
        /// Its rows.
        rows: Vec<Place>,
    },
    /// A gradient, with a finite loss.
    Gradient {
        /// The parameter nearest to the loss, where the backward pass meets it first.
        param: String,
    },
    /// Only the norm of all gradients together: too large for its type.
    Norm,
}

impl NotFinite {
    /// Looks for it in the order in which one causes the next.
    pub(super) fn find<K: Backend>(
        backend: &K,
        adapter: &Adapter<K>,
        window: &Window,
        losses: &[f64],
        grads: &ParamGrads<K>,
    ) -> Result<Self> {
        let names = || adapter.params().iter().map(|param| &param.name);
        let finite = |buffer| Ok::<_, kernels::Error>(backend.squared_norm(&[buffer])?.is_finite());
        for param in adapter.params().iter() {
            if !finite(&param.value)? {
                return Ok(Self::Weight { param: param.name.clone() });
            }
        }
        if let Some(i) = losses.iter().position(|loss| !loss.is_finite()) {
            let rows = window.micro_batches[i].places.clone();
            return Ok(Self::Loss { micro_batch: i + 1, of: losses.len(), rows });
        }
        // Parameters come in the order of layers.
        let mut last = None;
        for (name, grad) in names().zip(grads.buffers()) {
            if !finite(grad)? {
                last = Some(name);
            }
        }
        Ok(last.map_or(Self::Norm, |param| Self::Gradient { param: param.clone() }))
    }
}

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Weight { param } => {
                write!(f, "the adapter's {param} is not finite since the update before")
            }
            Self::Loss { micro_batch, of, rows } => {
                write!(f, "the loss of micro-batch {micro_batch} of {of} is not finite")?;
                let named = rows.iter().take(NAMED).map(Place::to_string).collect::<Vec<_>>();
                write!(f, " ({}", named.join("; "))?;
                match rows.len() - named.len() {
                    0 => f.write_str(")"),
                    more => write!(f, "; and {more} rows more)"),
                }
            }
            Self::Gradient { param } => write!(f, "the gradient of {param} is not finite"),
            Self::Norm => f.write_str("the norm of all gradients is not finite"),
        }
    }
}

/// The adapter's values before the first update that must change them.
#[derive(Debug)]
pub(super) struct Unmoved(Vec<Vec<f32>>);

impl Unmoved {
    pub(super) fn copy<K: Backend>(backend: &K, adapter: &Adapter<K>) -> Result<Self> {
        let values = adapter.params().iter().map(|param| backend.download(&param.value));
        Ok(Self(values.collect::<Result<_, _>>()?))
    }

    /// Checks that an update moved the adapter; names what it left where it was. A fresh adapter's `lora_B` is
    /// zero, so that its `lora_A` has no gradient yet.
    pub(super) fn check<K: Backend>(
        self,
        backend: &K,
        adapter: &Adapter<K>,
    ) -> Result<Option<String>> {
        let (mut moved, mut stayed) = (0, Vec::new());
        for (param, before) in adapter.params().iter().zip(self.0) {
            let after = backend.download(&param.value)?;
            let same = before.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits());
            moved += usize::from(!same);
            if same && param.name.contains("lora_B") {
                stayed.push(param.name.as_str());
            }
        }
        if moved == 0 {
            bail!(
                "the first update moved no weight of the adapter: its gradients are zero, or train.learning_rate is \
                 too small for f32 to hold the difference"
            );
        }
        Ok(stayed.first().map(|first| {
            format!(
                "the first update left {} adapter weights as they were, {first} among them",
                stayed.len()
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use data::rows::Unit;
    use data::{Batch, Example};
    use kernels::Cpu;
    use models::decoder::{BaseFormat, Decoder, LoadOptions};
    use models::weights::Checkpoint;

    use super::*;

    fn adapter() -> Adapter<Cpu> {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama");
        let checkpoint = Checkpoint::open(Path::new(model)).unwrap();
        let options =
            LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
        let decoder =
            Decoder::load(&Cpu::new(), &checkpoint, checkpoint.config(), &options).unwrap();
        Adapter::init(&decoder, &crate::recipe::default_lora(), 1).unwrap()
    }

    /// Batches of these lines of a file.
    fn window(lines: &[&[usize]]) -> Window {
        let file = Arc::new(PathBuf::from("rows.jsonl"));
        let example = |&line: &usize| Example {
            input_ids: vec![1, 2],
            labels: vec![1, 2],
            place: Place::new(&file, Unit::Line, line),
        };
        let batch = |lines: &&[usize]| Batch::new(&lines.iter().map(example).collect::<Vec<_>>());
        Window { trained_tokens: 1, micro_batches: lines.iter().map(batch).collect() }
    }

    #[test]
    fn rows_whose_loss_is_not_finite_are_named() {
        let (cpu, adapter) = (Cpu::new(), adapter());
        let grads = ParamGrads::zeros(&cpu, adapter.params()).unwrap();
        let found = |lines: &[&[usize]], losses: &[f64]| {
            NotFinite::find(&cpu, &adapter, &window(lines), losses, &grads).unwrap().to_string()
        };
        assert_eq!(
            found(&[&[4], &[7, 2]], &[1.0, f64::NAN]),
            "the loss of micro-batch 2 of 2 is not finite (rows.jsonl, line 7; rows.jsonl, line 2)"
        );
        let many: Vec<usize> = (1..=11).collect();
        let message = found(&[&many, &[20]], &[f64::INFINITY, f64::NAN]);
        assert!(message.contains("micro-batch 1 of 2"), "{message}");
        assert!(message.ends_with("line 8; and 3 rows more)"), "{message}");
        assert_eq!(found(&[&[1]], &[1.0]), NotFinite::Norm.to_string());
    }
}
