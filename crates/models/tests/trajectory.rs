//! 20-step `AdamW` trajectories of the tiny Llama against torch and PEFT.

mod common;

use autograd::{AdamW, AdamWConfig, ParamGrads, Precision, clip_factor};
use common::{Reference, Rows, adapter_with, load, nf4_base, norm_error, train_pass};
use kernels::Backend;
use models::LoraConfig;
use models::decoder::{BaseFormat, ForwardOptions};

fn check(name: &str, format: BaseFormat) {
    let r = Reference::open("train", "train");
    let run = &r.json[name];
    let number = |key: &str| run[key].as_f64().unwrap();
    let list = |key: &str| -> Vec<f64> {
        run[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let decoder = load("llama", format);
    let config = LoraConfig { r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
    let mut adapter = adapter_with(&decoder, &config, |name, len| {
        if name.ends_with("lora_B.weight") {
            return vec![0.0; len];
        }
        r.values(&format!("init.base_model.model.{name}")).iter().map(|&x| x as f32).collect()
    });
    let adamw = AdamWConfig {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: number("weight_decay") as f32,
    };
    let backend = decoder.backend().clone();
    let mut optimizer = AdamW::new(&backend, adapter.params(), adamw).unwrap();
    let accum = run["accum"].as_u64().unwrap() as usize;
    let batches: Vec<Vec<Vec<u32>>> = r.ids("batches").chunks(2).map(<[_]>::to_vec).collect();
    let (losses, norms, lrs) = (list("loss"), list("grad_norm"), list("lr_per_step"));
    assert_eq!(losses.len() * accum, batches.len());
    for (step, window) in batches.chunks(accum).enumerate() {
        let rows: Vec<Rows> = window.iter().map(|ids| Rows::all_trained(ids.clone())).collect();
        let trained = rows.iter().map(Rows::trained).sum();
        let mut grads = ParamGrads::zeros(&backend, adapter.params()).unwrap();
        let mut loss = 0.0;
        for rows in &rows {
            let options = ForwardOptions::default();
            loss +=
                train_pass(&decoder, &adapter, rows, trained, options, Precision::F32, &mut grads);
        }
        let norm = grads.global_norm(&backend).unwrap();
        let factor = clip_factor(norm, run["clip"].as_f64());
        optimizer.step(&backend, adapter.params_mut(), &grads, lrs[step] as f32, factor).unwrap();
        assert!(
            (loss - losses[step]).abs() <= 1e-4,
            "step {step}: {loss} against {}",
            losses[step]
        );
        let off = (norm - norms[step]).abs() / norms[step];
        assert!(off <= 1e-3, "step {step}: gradient norm {norm} against {}", norms[step]);
    }
    let prefix = format!("final_{name}.base_model.model.");
    for name in r.names(&prefix) {
        let param = adapter.params().iter().find(|p| p.name == name[prefix.len()..]).unwrap();
        let error = norm_error(&backend.download(&param.value).unwrap(), r.values(name));
        assert!(error <= 2e-3, "{name}: {error:e}");
    }
}

#[test]
fn plain_base() {
    check("lora_adamw", BaseFormat::Dense);
}

#[test]
fn nf4_base_without_double_quantisation() {
    check("lora_nf4_adamw", nf4_base(false));
}

#[test]
fn clipping_with_warmup_and_cosine() {
    check("lora_clip_warmup_cosine", BaseFormat::Dense);
}

#[test]
fn accumulation_over_two_batches() {
    check("lora_accum2", BaseFormat::Dense);
}
