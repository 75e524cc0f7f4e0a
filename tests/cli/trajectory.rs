//! Twenty steps of the binary against torch's `AdamW` on PEFT's LoRA, and what each setting is for.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};

use crate::support::{Workspace, stdout};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/train").join(name)
}

/// The adapter that the reference runs start from: A as stored, B zero.
fn write_start(dir: &Path, fixture: &SafeTensors<'_>) {
    let mut tensors = Vec::new();
    for (name, a) in fixture.iter().filter_map(|(name, a)| Some((name.strip_prefix("init.")?, a))) {
        let out = name.strip_suffix("lora_A.weight").unwrap().to_owned() + "lora_B.weight";
        let rows = fixture.tensor(&format!("final_lora_adamw.{out}")).map(|b| b.shape()[0]);
        // The fixture keeps the final adapter of the first layer alone; all layers have the same shapes.
        let rows = rows.unwrap_or_else(|_| {
            let first = out.replace("layers.1.", "layers.0.");
            fixture.tensor(&format!("final_lora_adamw.{first}")).unwrap().shape()[0]
        });
        tensors.push((name.to_owned(), a.shape().to_vec(), a.data().to_vec()));
        let r = a.shape()[0];
        tensors.push((out, vec![rows, r], vec![0; rows * r * 4]));
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), serialize(views, None).unwrap()).unwrap();
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    });
    fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
}

/// A workspace with the reference's rows, start and recipe.
fn workspace() -> Workspace {
    let w = Workspace::new();
    let bytes = fs::read(fixture("train.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    write_start(&w.path("start"), &tensors);
    let batches = tensors.tensor("batches").unwrap();
    let ids = batches.data().chunks_exact(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()));
    let ids: Vec<i64> = ids.collect();
    let row = |ids: &[i64]| json!({ "input_ids": ids }).to_string();
    let rows: Vec<String> = ids.chunks(*batches.shape().last().unwrap()).map(row).collect();
    w.write("rows.jsonl", &rows.join("\n"));
    w.write(
        "recipe.toml",
        &format!(
            "[model]\nadapter = {:?}\nquantize = \"none\"\n[data]\nshuffle = false\n[train]\nbatch_size = 2\n\
             epochs = 1\nlearning_rate = 0.01\nlr_scheduler = \"constant\"\nweight_decay = 0.01\nmax_grad_norm = 0\nprecision = \"f32\"\n",
            w.arg("start")
        ),
    );
    w
}

fn check(name: &str, more: &[&str]) {
    let reference: Value =
        serde_json::from_slice(&fs::read(fixture("train.json")).unwrap()).unwrap();
    let w = workspace();
    stdout(&w.train("out", more));
    let steps = w.metrics("out");
    let expected = reference[name]["loss"].as_array().unwrap();
    assert_eq!(steps.len(), expected.len());
    for (i, step) in steps.iter().enumerate() {
        for (field, key, tolerance) in [("loss", "loss", 1e-4), ("grad_norm", "grad_norm", 1e-3)] {
            let (found, expected) = (&step[field], &reference[name][key][i]);
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!(
                (found - expected).abs() <= tolerance * expected,
                "{name}, step {i}: {field} {found} against {expected}"
            );
        }
    }
}

#[test]
fn the_binary_takes_the_steps_of_torch_and_peft() {
    check("lora_adamw", &[]);
    check("lora_accum2", &["--set", "train.gradient_accumulation_steps=2"]);
    let plain = ["--set", "model.quantize=nf4", "--set", "model.double_quant=false"];
    check("lora_nf4_adamw", &plain);
}

#[test]
fn every_setting_of_the_optimizer_counts() {
    let w = workspace();
    let losses = |output: &str, set: &str| {
        stdout(&w.train(output, &["--set", "train.max_steps=3", "--set", set]));
        w.losses(output)
    };
    let base = losses("base", "train.seed=42");
    // The adapter's matrices are too small for 8-bit moments; those of the next test are not.
    assert_eq!(losses("small", "train.optim=adamw_8bit"), base);
    for (output, set) in [
        ("beta1", "train.adam_beta1=0.5"),
        ("beta2", "train.adam_beta2=0.9"),
        ("epsilon", "train.adam_epsilon=0.01"),
        ("decay", "train.weight_decay=0.5"),
        ("clip", "train.max_grad_norm=0.01"),
    ] {
        let changed = losses(output, set);
        assert_eq!(changed[0], base[0], "{set}");
        assert_ne!(changed, base, "{set}");
    }
}

#[test]
fn eight_bit_moments_train_about_as_f32_ones_do() {
    let w = Workspace::new();
    let losses = |optim: &str| -> Vec<f64> {
        let set = format!("train.optim={optim}");
        // Adapter matrices of 4096 elements and more.
        stdout(
            &w.train(optim, &["--set", "lora.r=64", "--set", "train.precision=f32", "--set", &set]),
        );
        w.losses(optim).into_iter().map(f64::from_bits).collect()
    };
    let (single, eight) = (losses("adamw"), losses("adamw_8bit"));
    assert_eq!(single[0], eight[0]);
    assert_ne!(single, eight);
    for (step, (single, eight)) in single.iter().zip(&eight).enumerate() {
        assert!((single - eight).abs() < 0.01 * single, "step {step}: {eight} against {single}");
    }
}
