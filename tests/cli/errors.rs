//! Bad inputs each give one clear error and the right exit code.

use std::fs;

use crate::support::{Workspace, error, rows, run, run_with};

/// Trains with a change that must fail, and returns the error.
fn fails(w: &Workspace, more: &[&str]) -> String {
    let message = error(&w.train("out", more), 1);
    assert!(!w.path("out/adapter").exists());
    message
}

fn assert_mentions(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

#[test]
fn missing_files() {
    let w = Workspace::new();
    let set = |field: &str| format!("{field}={}", w.arg("nowhere"));
    for field in ["model.path", "data.path", "data.eval_path", "model.adapter"] {
        let w = Workspace::new();
        if field == "model.adapter" {
            w.write("recipe.toml", "[train]\nmax_steps = 1\n");
        }
        let more = ["--set", "data.eval_rows=0", "--set", &set(field)];
        // The options of the helper would win.
        let (recipe, model, data) = (w.arg("recipe.toml"), w.arg("model"), w.arg("rows.jsonl"));
        let mut args = vec!["train", &recipe];
        let (model, data) = (format!("model.path={model}"), format!("data.path={data}"));
        let output = format!("output.dir={}", w.arg("out"));
        args.extend(["--set", &model, "--set", &data, "--set", &output]);
        args.extend(more);
        assert_mentions(&error(&run(&args), 1), &["nowhere", "No such file"]);
    }
    let message = error(&run(&["train", &w.arg("nowhere.toml")]), 1);
    assert_mentions(&message, &["nowhere.toml", "No such file"]);
    assert_eq!(message.matches("No such file").count(), 1, "{message}");
}

#[test]
fn a_level_of_instructions_that_there_is_none_of() {
    let w = Workspace::new();
    let (model, demo) = (w.arg("model"), w.arg("demo"));
    for args in [&["device"][..], &["inspect", &model], &["demo-data", &demo]] {
        let message = error(&run_with(args, &[("QLORA_CPU", "avx3")]), 1);
        assert_mentions(&message, &["QLORA_CPU=avx3", "there is no such level"]);
    }
    assert!(!w.path("demo").exists());
}

#[test]
fn truncated_weights() {
    let w = Workspace::new();
    let path = w.path("model/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for len in [4, 100, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        assert_mentions(&fails(&w, &[]), &["model.safetensors"]);
    }
}

#[test]
fn weights_of_another_shape() {
    let w = Workspace::new();
    let path = w.path("model/config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"intermediate_size\": 128", "\"intermediate_size\": 120"))
        .unwrap();
    assert_mentions(&fails(&w, &[]), &["model.layers.0.mlp", "[128, 64]", "[120, 64]"]);
}

#[test]
fn a_malformed_line() {
    let w = Workspace::new();
    let mut lines: Vec<String> = rows(40).lines().map(str::to_owned).collect();
    lines[36].truncate(20);
    w.write("rows.jsonl", &lines.join("\n"));
    assert_mentions(&fails(&w, &[]), &["rows.jsonl", "line 37", "JSON"]);
}

#[test]
fn no_trainable_target() {
    let w = Workspace::new();
    assert_mentions(
        &fails(&w, &["--set", "lora.target_modules=[\"query\"]"]),
        &["query", "q_proj"],
    );
}

#[test]
fn mistyped_lora_targets() {
    let w = Workspace::new();
    for (set, parts) in [
        ("lora.target_modules=[\"q_proj\", \"v_prj\"]", ["target_modules", "v_prj", "v_proj"]),
        ("lora.rank_pattern={ query = 2 }", ["rank_pattern", "query", "q_proj"]),
    ] {
        assert_mentions(&fails(&w, &["--set", set]), &parts);
    }
}

#[test]
fn all_labels_masked() {
    let w = Workspace::new();
    w.write("rows.jsonl", r#"{"messages": [{"role": "user", "content": "hello"}]}"#);
    let message = fails(&w, &["--set", "data.eval_rows=0"]);
    assert_mentions(&message, &["rows.jsonl", "line 1", "masked"]);
}

#[test]
fn a_row_longer_than_the_context() {
    let w = Workspace::new();
    let long = "x".repeat(200);
    w.write("rows.jsonl", &format!("{}{{\"prompt\": \"\", \"completion\": \"{long}\"}}\n", ""));
    let message = fails(&w, &["--set", "data.eval_rows=0"]);
    assert_mentions(&message, &["rows.jsonl", "line 1", "201 tokens", "128", "overlength"]);
    let (model, prompt) = (w.arg("model"), "y".repeat(130));
    let message = error(&run(&["generate", "--model", &model, "--raw", "--prompt", &prompt]), 1);
    assert_mentions(&message, &["130 tokens", "128"]);
}

#[test]
fn unknown_recipe_fields() {
    let w = Workspace::new();
    w.write("recipe.toml", "[train]\nlearning_rat = 1e-3\n");
    assert_mentions(
        &fails(&w, &[]),
        &["recipe.toml", "train.learning_rat", "`train.learning_rate`"],
    );
    w.write("recipe.toml", "[train]\nlearning_rate = \"fast\"\n");
    assert_mentions(&fails(&w, &[]), &["recipe.toml", "train.learning_rate", "fast"]);
    w.write("recipe.toml", "[train\n");
    assert_mentions(&fails(&w, &[]), &["recipe.toml", "line 1"]);
}

#[test]
fn mistakes_on_the_command_line_exit_with_2() {
    let w = Workspace::new();
    for (set, parts) in [
        ("train.batchsize=4", ["train.batchsize", "`train.batch_size`"]),
        ("train.batch_size=0", ["train.batch_size", "at least 1"]),
        ("train.batch_size=many", ["train.batch_size", "many"]),
        ("batch_size", ["batch_size", "section.field=value"]),
    ] {
        assert_mentions(&error(&w.train("out", &["--set", set]), 2), &parts);
    }
    for args in [
        &["trian"][..],
        &["generate", "--model", "m"],
        &["eval"],
        &["train", "r", "--threads", "0"],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    let model = w.arg("model");
    let generate = ["generate", "--model", &model, "--prompt", "x", "--temperature=-1"];
    assert_mentions(&error(&run(&generate), 2), &["--temperature"]);
    let quantize = ["quantize", "--model", &model, "--output", "q", "--blocksize", "48"];
    assert_mentions(&error(&run(&quantize), 2), &["--blocksize", "48"]);
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn adapters_that_do_not_fit() {
    let w = Workspace::new();
    fs::create_dir(w.path("adapter")).unwrap();
    let (model, adapter) = (w.arg("model"), w.arg("adapter"));
    let generate = ["generate", "--model", &model, "--adapter", &adapter, "--prompt", "x"];
    assert_mentions(&error(&run(&generate), 1), &["adapter_config.json"]);
    w.write("adapter/adapter_config.json", r#"{"peft_type": "IA3"}"#);
    assert_mentions(&error(&run(&generate), 1), &["adapter_config.json", "peft_type"]);
}

#[test]
fn profile_on_a_card() {
    let w = Workspace::new();
    let message = error(&w.train("out", &["--profile", "--device", "cuda"]), 2);
    assert_mentions(&message, &["--profile", "scripts/profile-nsys.sh", "--device cpu"]);
    assert!(!w.path("out").exists());
}
