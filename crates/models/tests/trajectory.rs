//! 20-step `AdamW` trajectories of the tiny Llama against torch and PEFT, and steps with 8-bit moments.

mod common;

use autograd::{AdamW, AdamWConfig, ParamGrads, Precision, clip_factor};
use common::{Reference, Rows, adapter_with, load, nf4_base, norm_error, train_pass};
use kernels::ops::{AdamW as Step, AdamW8bitTensor, Moment8};
use kernels::{Backend, Cpu, DType, HostSlice, MemoryKind};
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

/// Five steps on one tensor in torch, with the moments quantised to the nearest codes in between.
#[test]
fn eight_bit_moments() {
    let r = Reference::open("train", "train");
    let run = &r.json["adamw8bit"];
    let values = |name: &str| -> Vec<f32> {
        r.values(&format!("adamw8bit.{name}")).iter().map(|&x| x as f32).collect()
    };
    let cpu = Cpu::new();
    let up = |x: &[f32]| cpu.upload(HostSlice::F32(x), MemoryKind::Adapters).unwrap();
    let zeros = |dtype, len| cpu.zeros(dtype, len, MemoryKind::Optimizer).unwrap();
    let (start, grads) = (values("p0"), values("grads"));
    let len = start.len();
    let mut param = up(&start);
    let [mut m, mut v] = [(); 2].map(|()| (zeros(DType::U8, len), zeros(DType::F32, len / 256)));
    for (step, grad) in (1..).zip(grads.chunks(len)) {
        let op = Step {
            lr: run["lr"].as_f64().unwrap() as f32,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: run["wd"].as_f64().unwrap() as f32,
            step,
            grad_scale: 1.0,
        };
        let tensor = AdamW8bitTensor {
            param: &mut param,
            grad: &up(grad),
            m: Moment8 { codes: &mut m.0, absmax: &mut m.1 },
            v: Moment8 { codes: &mut v.0, absmax: &mut v.1 },
        };
        cpu.adamw_8bit(op, &mut [tensor]).unwrap();
    }
    let moved = |to: &[f32]| -> Vec<f64> {
        to.iter().zip(&start).map(|(to, from)| f64::from(to - from)).collect()
    };
    let got: Vec<f32> =
        moved(&cpu.download(&param).unwrap()).into_iter().map(|x| x as f32).collect();
    let error = norm_error(&got, &moved(&values("p_after5")));
    assert!(error <= 1e-3, "{error:e}");
    for ((codes, absmax), moment) in [(&m, 1), (&v, 2)] {
        let error = norm_error(
            &cpu.download(absmax).unwrap(),
            r.values(&format!("adamw8bit.absmax{moment}")),
        );
        // 1 - beta2 is taken in f32 here, in f64 there, and differs by 5e-5.
        assert!(error <= 1e-4, "{error:e}");
        let (got, expected) = (cpu.download(codes).unwrap(), values(&format!("state{moment}")));
        let off = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).filter(|x| *x != 0.0);
        assert!(off.clone().all(|x| x == 1.0), "a code is more than one off");
        assert!(off.count() <= 4, "codes of moment {moment}");
    }
}
