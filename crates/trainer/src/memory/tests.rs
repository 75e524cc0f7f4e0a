use std::path::Path;
use std::sync::Arc;

use data::{Batch, Dataset, Example, Window};
use kernels::{Backend, Cpu};
use models::LoraConfig;
use models::decoder::{Adapter, BaseFormat, Decoder, Keep, LoadOptions};
use models::weights::{Checkpoint, Hollow, TensorSource};
use proptest::prelude::*;

use super::*;
use crate::recipe::{Optim, Precision, TrainSection};
use crate::schedule::Schedule;
use crate::sft::{Prompts, SftTrainer, StepSettings, batch_loss};
use crate::stop::Stops;

fn checkpoint(model: &str) -> Checkpoint {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
    Checkpoint::open(&Path::new(models).join(model)).unwrap()
}

fn load<K: Backend>(
    backend: &K,
    source: &dyn TensorSource,
    checkpoint: &Checkpoint,
) -> (Decoder<K>, Adapter<K>) {
    let options = LoadOptions {
        format: BaseFormat::Quantized(nf4::QuantConfig::default()),
        narrow: backend.activations() == kernels::DType::Bf16,
        progress: &|_, _| (),
    };
    let decoder = Decoder::load(backend, source, checkpoint.config(), &options).unwrap();
    let lora = LoraConfig { lora_dropout: 0.1, ..crate::recipe::default_lora() };
    let adapter = Adapter::init(&decoder, &lora, 1).unwrap();
    (decoder, adapter)
}

/// Rows of these lengths, every third token not trained.
fn batch(lengths: &[usize]) -> Batch {
    let example = |length: &usize| {
        let input_ids: Vec<u32> = (0..*length as u32).map(|i| i % 50).collect();
        let label = |(i, id): (usize, &u32)| if i % 3 == 2 { data::IGNORE } else { *id };
        Example {
            labels: input_ids.iter().enumerate().map(label).collect(),
            input_ids,
            place: data::rows::Place::default(),
        }
    };
    Batch::new(&lengths.iter().map(example).collect::<Vec<_>>())
}

fn window(lengths: &[&[usize]]) -> Window {
    let micro_batches: Vec<Batch> = lengths.iter().map(|lengths| batch(lengths)).collect();
    Window { trained_tokens: micro_batches.iter().map(Batch::trained_tokens).sum(), micro_batches }
}

fn workload(precision: Precision, optim: Optim) -> Workload {
    Workload {
        train: TrainSection { optim, precision, ..TrainSection::default() },
        windows: vec![window(&[&[37, 5, 20], &[30]]), window(&[&[50]])],
        evaluated: vec![batch(&[40, 3])],
        prompts: None,
    }
}

/// The same run for real: its memory and losses.
fn real<K: Backend>(
    backend: &K,
    checkpoint: &Checkpoint,
    workload: &Workload,
    keep: Arc<[Keep]>,
) -> (kernels::MemoryUsage, Vec<f64>) {
    let (decoder, adapter) = load(backend, checkpoint, checkpoint);
    let settings = StepSettings::new(backend, &workload.train, keep);
    let schedule = Schedule::new(&workload.train, workload.windows.len());
    let mut trainer = SftTrainer::new(&decoder, adapter, schedule, settings).unwrap();
    for batch in &workload.evaluated {
        batch_loss(&decoder, Some(trainer.adapter()), batch, workload.train.precision.on(backend))
            .unwrap();
    }
    let losses = workload.windows.iter().map(|window| trainer.step(window).unwrap().loss);
    let losses = losses.collect();
    (backend.memory(), losses)
}

const F32: (Precision, Optim) = (Precision::F32, Optim::AdamW);
const BF16: (Precision, Optim) = (Precision::Bf16, Optim::AdamW8bit);

fn check_against_reality<K: Backend>(
    models: &[&Checkpoint],
    settings: &[(Precision, Optim)],
    new: impl Fn() -> K,
) {
    for checkpoint in models {
        let hollow = Hollow::of(*checkpoint).unwrap();
        let layers = checkpoint.config().num_hidden_layers;
        for &(precision, optim) in settings {
            let workload = workload(precision, optim);
            let mixed: Arc<[Keep]> = (0..layers)
                .map(|i| {
                    if i % 2 == 0 {
                        Keep::NOTHING
                    } else {
                        Keep { qkv: false, input: false, ..Keep::ALL }
                    }
                })
                .collect();
            let mut losses = None;
            for keep in [Keep::ALL.for_layers(layers), Keep::NOTHING.for_layers(layers), mixed] {
                let backend = new();
                let dry = backend.dry_run();
                let (decoder, adapter) = load(&dry, &hollow, checkpoint);
                let need = Rehearsal::new(&decoder, adapter, &workload)
                    .unwrap()
                    .measure(Arc::clone(&keep))
                    .unwrap();
                // As `train` does: what is reserved is enough.
                backend.reserve(need.usage.extent).unwrap();
                let (real, found) = real(&backend, checkpoint, &workload, keep);
                assert!(found.iter().all(|loss| *loss > 0.0));
                // The second step's loss hangs on the first one's gradients.
                assert_eq!(*losses.get_or_insert_with(|| found.clone()), found);
                assert_eq!(real.peak, need.usage.peak, "{precision:?}");
                assert_eq!(real.at_peak, need.usage.at_peak);
                assert_eq!(real.reached, need.usage.reached);
                assert_eq!(real.by_layer, need.usage.by_layer);
                assert_eq!(real.flops, need.usage.flops);
                assert_eq!(real.host_peak, need.usage.host_peak);
                assert!(
                    real.extent <= need.usage.extent,
                    "{precision:?} {:?}: {} of {}",
                    need.keep[0],
                    real.extent,
                    need.usage.extent
                );
            }
        }
    }
}

#[test]
fn what_is_planned_is_what_a_run_takes() {
    let models = ["llama", "qwen3", "llama-bnb4"].map(checkpoint);
    check_against_reality(&models.each_ref(), &[F32, BF16], Cpu::new);
    // Workspace differs by level, which holds for a process.
    if std::env::var_os("QLORA_CPU").is_none() {
        for level in kernels::CpuLevel::supported().into_iter().map(kernels::CpuLevel::name) {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "memory::tests::what_is_planned_is_what_a_run_takes"])
                .env("QLORA_CPU", level)
                .status();
            assert!(status.unwrap().success(), "{level}");
        }
    }
}

#[test]
#[cfg(feature = "cuda")]
fn cuda_what_is_planned_is_what_a_run_takes() {
    check_against_reality(&[&checkpoint("qwen3")], &[F32, BF16], || kernels::Cuda::new(0).unwrap());
}

#[cfg(feature = "real-model-tests")]
fn smollm2() -> Checkpoint {
    let path = std::env::var_os("QLORA_SMOLLM2");
    let path =
        path.expect("QLORA_SMOLLM2 names the GGUF: export QLORA_SMOLLM2=$(scripts/fetch-model.sh)");
    Checkpoint::open(Path::new(&path)).unwrap()
}

#[test]
#[cfg(feature = "real-model-tests")]
fn what_is_planned_for_a_real_model_is_what_it_takes() {
    check_against_reality(&[&smollm2()], &[F32, BF16], Cpu::new);
}

#[test]
#[cfg(all(feature = "real-model-tests", feature = "cuda"))]
#[ignore = "takes minutes on the emulated card"]
fn cuda_what_is_planned_for_a_real_model_is_what_it_takes() {
    check_against_reality(&[&smollm2()], &[BF16], || kernels::Cuda::new(0).unwrap());
}

/// Measures as a function of what is kept, without a model: sizes and costs of the parts by layer.
fn made_up(sizes: [usize; 7], costs: [u64; 7]) -> impl FnMut(Arc<[Keep]>) -> anyhow::Result<Need> {
    use models::decoder::Part;
    let parts_of = |i: usize| Part::COMPUTED.get(i).copied().unwrap_or(Part::Input);
    move |keep| {
        let parts = || keep.iter().flat_map(|keep| (0..7).map(move |i| (i, keep.has(parts_of(i)))));
        let kept: usize = parts().filter(|(_, kept)| *kept).map(|(i, _)| sizes[i]).sum();
        let flops: u64 = parts().filter(|(_, kept)| !*kept).map(|(i, _)| costs[i]).sum();
        let ledger = kernels::MemoryLedger::default();
        ledger.add(kernels::MemoryKind::Activations, 1000 + kept);
        Ok(Need {
            keep,
            usage: ledger.usage(0),
            checkpoint: 0,
            in_host_memory: true,
            flops: 10_000 + flops,
            tokens: 1,
        })
    }
}

proptest! {
    /// As the budget shrinks, what is taken never grows and what is computed never falls.
    #[test]
    fn less_memory_is_never_more_or_faster(
        sizes in prop::array::uniform7(1..100_usize),
        costs in prop::array::uniform7(0..100_u64),
        layers in 1..9_usize,
        mut budgets in prop::array::uniform4(900..6_000_usize),
    ) {
        budgets.sort_unstable();
        let chosen = budgets.map(|budget| choose(layers, budget, made_up(sizes, costs)).unwrap());
        for (choice, budget) in chosen.iter().zip(budgets) {
            match choice {
                Choice::Fits(need) => prop_assert!(need.bytes() <= budget),
                Choice::TooLarge(need) => prop_assert_eq!(&*need.keep, &*Keep::LEAST.for_layers(layers)),
            }
        }
        for pair in chosen.windows(2) {
            let (less, more) = (pair[0].need(), pair[1].need());
            prop_assert!(less.bytes() <= more.bytes() && less.flops >= more.flops);
        }
    }
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let bytes = |text: &str| text.parse::<Budget>();
    assert_eq!(bytes("22GiB"), Ok(Budget::Bytes(22 << 30)));
    assert_eq!(bytes("1.5 GB"), Ok(Budget::Bytes(1_500_000_000)));
    assert_eq!(bytes("800MiB"), Ok(Budget::Bytes(800 << 20)));
    assert_eq!(bytes("auto"), Ok(Budget::Auto));
    for text in ["", "22", "GiB", "-1GiB", "1e30GiB", "22 GiBs", "nanGB"] {
        assert!(bytes(text).is_err(), "{text}");
    }
    let budget = Budget::Bytes(12_345);
    assert_eq!(budget.to_string().parse(), Ok(budget));
}

#[test]
fn answers_before_and_after_are_planned() {
    let checkpoint = checkpoint("llama");
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tokenizer");
    let tokenizer = models::tokenizer::Tokenizer::open(Path::new(tokenizer)).unwrap();
    let row = |length: usize| Example {
        input_ids: vec![7; length],
        labels: (0..length).map(|i| if i + 9 < length { data::IGNORE } else { 7 }).collect(),
        place: data::rows::Place::default(),
    };
    // Far more than a step takes.
    let rows: Dataset = std::iter::repeat_n(row(110), 40).collect();
    let prompts = Prompts::of(&rows, (30, 64), &tokenizer, &[]).unwrap();
    let without = workload(F32.0, F32.1);
    let with = Workload { prompts: Some(prompts.clone()), ..without.clone() };
    let measure = |workload: &Workload| {
        let dry = Cpu::new().dry_run();
        let (decoder, adapter) = load(&dry, &Hollow::of(&checkpoint).unwrap(), &checkpoint);
        let mut rehearsal = Rehearsal::new(&decoder, adapter, workload).unwrap();
        rehearsal.measure(Arc::default()).unwrap().usage.peak
    };
    let cpu = Cpu::new();
    let (decoder, adapter) = load(&cpu, &checkpoint, &checkpoint);
    let settings = StepSettings::new(&cpu, &with.train, Arc::default());
    let trainer =
        SftTrainer::new(&decoder, adapter, Schedule::new(&with.train, 1), settings).unwrap();
    let precision = with.train.precision.on(&cpu);
    let answers =
        prompts.answer(&decoder, trainer.adapter(), precision, &Stops::default()).unwrap();
    assert_eq!(answers.unwrap().len(), 30);
    assert_eq!(measure(&with), cpu.memory().peak);
    assert!(measure(&without) < measure(&with));
}
