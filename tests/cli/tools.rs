//! `quantize`, `generate`, `inspect` and `demo-data`.

use std::fs;

use crate::support::{Workspace, run, stdout};

#[test]
fn a_quantized_checkpoint_is_the_model_that_training_sees() {
    let w = Workspace::new();
    let (model, quantized, rows) = (w.arg("model"), w.arg("q"), w.arg("rows.jsonl"));
    let summary = stdout(&run(&["quantize", "--model", &model, "--output", &quantized]));
    assert!(summary.contains("MB"), "{summary}");
    let eval = |model: &str, more: &[&str]| {
        stdout(&run(&[&["eval", "--model", model, "--data", &rows, "--json"], more].concat()))
    };
    assert_eq!(eval(&quantized, &[]), eval(&model, &[]), "tokenizer and bits are the same");
    assert_ne!(eval(&quantized, &[]), eval(&model, &["--quantize", "none"]));
    let report = stdout(&run(&["inspect", &quantized]));
    assert!(
        report.contains("NF4") && report.contains("model.layers.*.self_attn.q_proj.weight"),
        "{report}"
    );
}

#[test]
fn generation_is_repeatable_and_reads_conversations() {
    let w = Workspace::new();
    let model = w.arg("model");
    let generate = |more: &[&str]| {
        let args = ["generate", "--model", &model, "--max-new-tokens", "8"];
        stdout(&run(&[&args[..], more].concat()))
    };
    let drawn = |top_p, seed| {
        generate(&["--prompt", "hi", "--temperature", "1", "--top-p", top_p, "--seed", seed])
    };
    assert_eq!(drawn("1", "3"), drawn("1", "3"));
    assert_ne!(drawn("1", "3"), drawn("1", "4"));
    assert_eq!(drawn("1e-6", "3"), generate(&["--prompt", "hi"]), "only the most likely is left");
    let messages = w.write("m.json", r#"[{"role": "user", "content": "hi"}]"#);
    assert_eq!(generate(&["--messages", &messages]), generate(&["--prompt", "hi"]));
    let rendered = "user: hi\nassistant: ";
    assert_eq!(generate(&["--raw", "--prompt", rendered]), generate(&["--prompt", "hi"]));
}

#[test]
fn inspect_tells_models_adapters_and_rows() {
    let w = Workspace::new();
    stdout(&w.train("out", &["--set", "train.max_steps=1"]));
    let model = w.arg("model");
    let report = stdout(&run(&["inspect", &model]));
    assert!(report.contains("llama model, 2 layers") && report.contains("F32"), "{report}");
    // r (in + out) over 2 layers of 7 linears, r = 4.
    let per_layer = 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128));
    let trainable = 2 * per_layer;
    let report = stdout(&run(&["inspect", &w.arg("out/adapter")]));
    let grouped = format!("{},{:03}", trainable / 1000, trainable % 1000);
    assert!(report.contains(&format!("trainable params: {grouped} || all params:")), "{report}");
    let report = stdout(&run(&["inspect", &w.arg("rows.jsonl"), "--model", &model]));
    assert!(report.contains("24 chat rows") && report.contains("trained"), "{report}");
}

#[test]
fn demonstration_rows_are_repeatable_and_held_out_rows_are_new() {
    let w = Workspace::new();
    for out in ["a", "b"] {
        let out = w.arg(out);
        stdout(&run(&["demo-data", "--rows", "30", "--held-out", "10", "--seed", "5", &out]));
    }
    let read = |name: &str| fs::read_to_string(w.path(name)).unwrap();
    assert_eq!(read("a/train.jsonl"), read("b/train.jsonl"));
    assert_eq!(
        (read("a/train.jsonl").lines().count(), read("a/held-out.jsonl").lines().count()),
        (30, 10)
    );
    let train = read("a/train.jsonl");
    assert!(read("a/held-out.jsonl").lines().all(|row| !train.contains(row)));
    assert_eq!(run(&["demo-data", "--rows", "3001", &w.arg("c")]).status.code(), Some(2));
}
