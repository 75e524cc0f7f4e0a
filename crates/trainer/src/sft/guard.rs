//! Steps that must not be taken, and steps that changed nothing.

use std::fmt::{self, Write as _};

use anyhow::{Result, bail};
use autograd::ParamGrads;
use data::Window;
use data::rows::Place;
use kernels::Backend;
use models::decoder::{Adapter, Stage};

use super::{SftTrainer, Spike};

/// Rows that a message names.
const NAMED: usize = 8;

/// Why a step left the adapter as it was.
#[derive(Debug, Clone, PartialEq)]
pub enum Skipped {
    /// What first was not finite.
    NotFinite(NotFinite),
    /// A loss far above those before.
    Spike(Spike),
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite(cause) => cause.fmt(f),
            Self::Spike(spike) => spike.fmt(f),
        }
    }
}

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
        /// The first micro-batch of the step with such a loss.
        at: Culprit,
        /// Where the forward pass first was not finite; `None` is in the output head.
        stage: Option<Stage>,
    },
    /// A gradient, with a finite loss.
    Gradient {
        /// The parameter nearest to the loss, where the backward pass meets it first.
        param: String,
        /// The first micro-batch of the step that has such a gradient alone; `None` where only their sum is.
        at: Option<Culprit>,
    },
    /// Only the norm of all gradients together: too large for its type.
    Norm,
}

/// A micro-batch in which a step went wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Culprit {
    /// Counted from 1.
    pub micro_batch: usize,
    /// Micro-batches of the step.
    pub of: usize,
    /// Its rows.
    pub rows: Vec<Place>,
}

impl Culprit {
    pub(super) fn new(window: &Window, index: usize) -> Self {
        let batches = &window.micro_batches;
        let rows = batches[index].places.clone();
        Self { micro_batch: index + 1, of: batches.len(), rows }
    }

    /// The micro-batch of the highest mean loss, by their summed losses.
    pub(super) fn highest(window: &Window, losses: &[f64]) -> Self {
        let means = losses.iter().zip(&window.micro_batches);
        let means = means.map(|(loss, batch)| loss / batch.trained_tokens() as f64);
        let highest = means.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        Self::new(window, highest.expect("a window has a micro-batch").0)
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { micro_batch, of, rows } = self;
        write!(f, "micro-batch {micro_batch} of {of} ({})", named(rows))
    }
}

impl<K: Backend> SftTrainer<'_, K> {
    /// Looks for what went wrong in a step whose first forward pass was `first_pass`, in the order in which one causes
    /// the next. Passes are made again as they were, the same dropout in them.
    pub(super) fn diagnose(
        &self,
        window: &Window,
        first_pass: u64,
        losses: &[f64],
        grads: ParamGrads<K>,
    ) -> Result<NotFinite> {
        let backend = self.decoder.backend();
        for param in self.adapter.params().iter() {
            if !is_finite(backend, &param.value)? {
                return Ok(NotFinite::Weight { param: param.name.clone() });
            }
        }
        if let Some(i) = losses.iter().position(|loss| !loss.is_finite()) {
            let stage = self.first_not_finite(&window.micro_batches[i], first_pass + i as u64)?;
            return Ok(NotFinite::Loss { at: Culprit::new(window, i), stage });
        }
        let Some(param) = last_not_finite(backend, &grads)? else { return Ok(NotFinite::Norm) };
        // There is room for one set of gradients.
        drop(grads);
        let at = self.first_bad_gradient(window, first_pass)?;
        let param = self.adapter.params().iter().nth(param);
        let param = param.expect("one gradient for each parameter").name.clone();
        Ok(NotFinite::Gradient { param, at })
    }

    fn first_bad_gradient(&self, window: &Window, first_pass: u64) -> Result<Option<Culprit>> {
        let backend = self.decoder.backend();
        for ((i, batch), pass) in window.micro_batches.iter().enumerate().zip(first_pass..) {
            let mut grads = ParamGrads::zeros(backend, self.adapter.params())?;
            self.add_gradient(batch, pass, window.trained_tokens, &mut grads)?;
            if last_not_finite(backend, &grads)?.is_some() {
                return Ok(Some(Culprit::new(window, i)));
            }
        }
        Ok(None)
    }
}

fn is_finite<K: Backend>(backend: &K, buffer: &K::Buffer) -> Result<bool> {
    Ok(backend.squared_norm(&[buffer])?.is_finite())
}

/// Parameters come in the order of layers.
fn last_not_finite<K: Backend>(backend: &K, grads: &ParamGrads<K>) -> Result<Option<usize>> {
    let mut last = None;
    for (i, grad) in grads.buffers().iter().enumerate() {
        if !is_finite(backend, grad)? {
            last = Some(i);
        }
    }
    Ok(last)
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight { param } => {
                write!(f, "the adapter's {param} is not finite since the update before")
            }
            Self::Loss { at, stage } => {
                let place = stage.map_or("logits".to_owned(), |stage| format!("output of {stage}"));
                write!(f, "the loss is not finite, first in the {place} in {at}")
            }
            Self::Gradient { param, at: Some(at) } => {
                write!(f, "the gradient of {param} is not finite, first in {at}")
            }
            Self::Gradient { param, at: None } => {
                write!(f, "the gradient of {param} is not finite; of each micro-batch alone it is")
            }
            Self::Norm => f.write_str("the norm of all gradients is not finite"),
        }
    }
}

/// The first rows of a list.
fn named(rows: &[Place]) -> String {
    let mut text = rows.iter().take(NAMED).map(Place::to_string).collect::<Vec<_>>().join("; ");
    if rows.len() > NAMED {
        write!(text, "; and {} rows more", rows.len() - NAMED).expect("strings take everything");
    }
    text
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
    use data::{Batch, Example, IGNORE};
    use kernels::{Cpu, HostSlice, MemoryKind};
    use models::decoder::{BaseFormat, Decoder, LoadOptions};
    use models::weights::Checkpoint;

    use super::super::StepSettings;
    use super::*;
    use crate::recipe::TrainSection;
    use crate::schedule::Schedule;

    fn decoder() -> Decoder<Cpu> {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama");
        let checkpoint = Checkpoint::open(Path::new(model)).unwrap();
        let options =
            LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
        Decoder::load(&Cpu::new(), &checkpoint, checkpoint.config(), &options).unwrap()
    }

    /// A trainer whose adapter has one value in each parameter.
    fn trainer(decoder: &Decoder<Cpu>, value: impl Fn(&str) -> f32) -> SftTrainer<'_, Cpu> {
        let mut adapter = Adapter::init(decoder, &crate::recipe::default_lora(), 1).unwrap();
        for param in adapter.params_mut().iter_mut() {
            let values = vec![value(&param.name); param.shape.iter().product()];
            param.value = Cpu::new().upload(HostSlice::F32(&values), MemoryKind::Adapters).unwrap();
        }
        let train = TrainSection::default();
        let settings = StepSettings::new(decoder.backend(), &train, Arc::default());
        SftTrainer::new(decoder, adapter, Schedule::new(&train, 9), settings).unwrap()
    }

    /// Batches of these lines of a file; those of the first are not learned.
    fn window(lines: &[&[usize]]) -> Window {
        let file = Arc::new(PathBuf::from("rows.jsonl"));
        let batch = |(i, lines): (usize, &&[usize])| {
            let example = |&line: &usize| Example {
                input_ids: vec![1, 2, 3],
                labels: if i == 0 { vec![IGNORE; 3] } else { vec![1, 2, 3] },
                place: Place::new(&file, Unit::Line, line),
            };
            Batch::new(&lines.iter().map(example).collect::<Vec<_>>())
        };
        let micro_batches: Vec<Batch> = lines.iter().enumerate().map(batch).collect();
        let trained_tokens = micro_batches.iter().map(Batch::trained_tokens).sum();
        Window { trained_tokens, micro_batches }
    }

    fn cause(mut trainer: SftTrainer<'_, Cpu>, lines: &[&[usize]]) -> String {
        let before = trainer.adapter().weights(trainer.decoder).unwrap();
        let outcome = trainer.step(&window(lines)).unwrap();
        assert_eq!(trainer.adapter().weights(trainer.decoder).unwrap(), before);
        outcome.skipped.map_or_else(String::new, |cause| cause.to_string())
    }

    #[test]
    fn a_loss_names_its_layer_and_its_rows() {
        let decoder = decoder();
        let overflows = |module: &'static str| {
            trainer(&decoder, move |name| if name.contains(module) { 1e30 } else { 0.0 })
        };
        assert_eq!(
            cause(overflows("layers.1.mlp.down_proj"), &[&[4], &[7, 2]]),
            "the loss is not finite, first in the output of model.layers.1 in micro-batch 2 of 2 \
             (rows.jsonl, line 7; rows.jsonl, line 2)"
        );
        let many: Vec<usize> = (1..=11).collect();
        let message = cause(overflows("layers.0.self_attn.o_proj"), &[&[20], &many, &[30]]);
        assert!(message.contains("micro-batch 2 of 3") && message.contains("model.layers.0"));
        assert!(message.ends_with("line 8; and 3 rows more)"), "{message}");
        assert_eq!(cause(overflows("nothing"), &[&[1], &[2]]), "");
    }

    #[test]
    fn a_gradient_names_its_parameter_and_its_rows() {
        let decoder = decoder();
        // Forward nothing passes by `A`, which is zero; backward floats meet it that are nearly the largest, in
        // bf16 too, so that only what is learned overflows.
        let trainer = trainer(&decoder, |name| if name.contains("lora_B") { 3.38e38 } else { 0.0 });
        let message = cause(trainer, &[&[4], &[7, 2], &[9]]);
        let expected = "layers.1.mlp.down_proj.lora_A.weight is not finite, first in micro-batch 2 of 3 \
                        (rows.jsonl, line 7; rows.jsonl, line 2)";
        assert!(message.ends_with(expected), "{message}");
    }

    #[test]
    fn a_weight_is_named_before_what_it_does() {
        let decoder = decoder();
        let bad = "model.layers.0.self_attn.v_proj.lora_A.weight";
        let trainer = trainer(&decoder, |name| if name == bad { f32::NAN } else { 0.0 });
        let message = cause_of_bad(trainer);
        assert_eq!(message, format!("the adapter's {bad} is not finite since the update before"));
    }

    /// Without a comparison of weights, which NaN never passes.
    fn cause_of_bad(mut trainer: SftTrainer<'_, Cpu>) -> String {
        trainer.step(&window(&[&[1], &[2]])).unwrap().skipped.unwrap().to_string()
    }
}
