//! A training run from end to end, and what it promises.

use std::fs;

use crate::support::{Workspace, error, rows, run, stdout};

#[test]
fn a_trained_adapter_answers_and_measures_better() {
    let w = Workspace::new();
    let summary =
        stdout(&w.train("out", &["--set", "train.max_steps=60", "--set", "lora.lora_dropout=0"]));
    let (model, adapter, rows) = (w.arg("model"), w.arg("out/adapter"), w.arg("rows.jsonl"));
    for expected in
        ["60 steps", "eval loss", "peak memory", &adapter, "qlora-train generate --model"]
    {
        assert!(summary.contains(expected), "no {expected:?} in\n{summary}");
    }
    assert!(w.path("out/adapter-last/adapter_model.safetensors").is_file());

    let eval = |more: &[&str]| {
        let args = ["eval", "--model", &model, "--data", &rows, "--json", "--exact-match"];
        let report = stdout(&run(&[&args, more].concat()));
        serde_json::from_str::<serde_json::Value>(&report).unwrap()
    };
    let (before, after) = (eval(&[]), eval(&["--adapter", &adapter, "--show", "2"]));
    let loss = |report: &serde_json::Value| report["loss"].as_f64().unwrap();
    assert!(loss(&after) < 0.5 * loss(&before), "{before} {after}");
    assert_eq!(before["exact_match"], 0.0);
    assert!(after["exact_match"].as_f64().unwrap() > 0.5, "{after}");
    assert_eq!(after["examples"].as_array().unwrap().len(), 2);
    let perplexity = after["perplexity"].as_f64().unwrap();
    assert!((perplexity.ln() - loss(&after)).abs() < 1e-9);

    let prompt = ["generate", "--model", &model, "--prompt", "c green", "--max-new-tokens", "12"];
    let answer = stdout(&run(&[&prompt[..], &["--adapter", &adapter]].concat()));
    assert_eq!(answer, "is green\n");
}

#[test]
fn metrics_have_a_row_for_every_step_and_evaluation() {
    let w = Workspace::new();
    stdout(&w.train("out", &[]));
    let rows = w.metrics("out");
    let (steps, evals): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get("loss").is_some());
    assert_eq!(steps.len(), 20);
    for (i, row) in steps.iter().enumerate() {
        assert_eq!(row["step"], i + 1);
        for field in [
            "loss",
            "lr",
            "grad_norm",
            "tokens",
            "trained_tokens",
            "tokens_per_second",
            "elapsed_s",
        ] {
            let value = row[field].as_f64().unwrap_or_else(|| panic!("{field} in {row}"));
            assert!(value > 0.0 || field == "lr" && i == 0, "{field} in {row}");
        }
        assert!(row["trained_tokens"].as_u64() < row["tokens"].as_u64());
        if cfg!(target_os = "linux") {
            assert!(row["peak_rss_bytes"].as_u64().unwrap() > 1_000_000);
        }
    }
    let page = || fs::read_to_string(w.path("out/report.html")).unwrap();
    let written = page();
    assert!(written.contains("<polyline") && written.contains("learning_rate = 0.01"), "{written}");
    fs::remove_file(w.path("out/report.html")).unwrap();
    stdout(&run(&["report", &w.arg("out")]));
    assert_eq!(page(), written);
    let rates: Vec<f64> = steps.iter().map(|row| row["lr"].as_f64().unwrap()).collect();
    assert_eq!(rates[..3], [0.0, 0.005, 0.01]);
    let (answers, evals): (Vec<_>, Vec<_>) =
        evals.into_iter().partition(|row| row.get("exact_match").is_some());
    let at = |rows: &[&serde_json::Value]| -> Vec<u64> {
        rows.iter().map(|row| row["step"].as_u64().unwrap()).collect()
    };
    assert_eq!((at(&evals), at(&answers)), (vec![0, 10, 20], vec![0, 20]));
    assert!(evals.iter().all(|row| row["eval_loss"].is_f64() && row["perplexity"].is_f64()));
}

#[test]
fn a_profile_shows_operations_and_changes_no_result() {
    let w = Workspace::new();
    let steps = ["--set", "train.max_steps=4", "--set", "train.eval_steps=2"];
    stdout(&w.train("plain", &steps));
    let text = stdout(&w.train("out", &[&steps[..], &["--profile"]].concat()));
    assert_eq!(w.losses("out"), w.losses("plain"));
    // The summary ends before the table does, which has the rows of every phase.
    let table = &text[text.find("profile of 3 steps").expect("a table")..];
    let rows: Vec<(&str, f64)> = table
        .lines()
        .filter_map(|line| Some((line.split("  ").find(|field| !field.is_empty())?, line)))
        .filter_map(|(name, line)| {
            Some((name, line.strip_suffix(" %")?.rsplit(' ').next()?.parse().ok()?))
        })
        .collect();
    let share = |name: &str| rows.iter().filter(|row| row.0 == name).map(|row| row.1).sum::<f64>();
    for name in ["linear", "linear_backward", "attention_backward", "adamw", "outside operations"] {
        assert!(rows.iter().any(|row| row.0 == name), "no {name} in {table}");
    }
    let phases = ["forward", "backward", "optimizer", "rest of the step"];
    let sum: f64 = phases.into_iter().map(share).sum();
    assert!((sum - 100.0).abs() < 0.3, "{table}");
    assert_eq!(share("step"), 100.0, "{table}");

    let trace = fs::read(w.path("out/trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    assert_eq!((named("step 2"), named("step 4"), named("step 1")), (1, 1, 0));
    // Two layers of q, k and v, o, gate and up, and down, in two micro-batches of three steps.
    let backward = [named("linear_backward"), named("linear_of_gated_backward")];
    assert_eq!((named("linear"), backward), (48, [36, 12]));
}

#[test]
fn a_profile_of_one_step_says_that_it_has_none() {
    let w = Workspace::new();
    let output = w.train("out", &["--set", "train.max_steps=1", "--profile"]);
    assert!(!stdout(&output).contains("profile"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("nothing to profile"), "{stderr}");
}

#[test]
fn losses_do_not_depend_on_threads_or_recompute() {
    let w = Workspace::new();
    for (output, more) in [
        ("one", ["--threads", "1", "--set", "train.seed=7"]),
        ("two", ["--threads", "2", "--set", "train.seed=7"]),
        ("bf16-one", ["--threads", "1", "--set", "train.precision=bf16"]),
        ("bf16-two", ["--threads", "2", "--set", "train.precision=bf16"]),
    ] {
        stdout(&w.train(output, &more));
    }
    stdout(
        &w.train("again", &["--set", "train.seed=7", "--set", "train.gradient_checkpointing=true"]),
    );
    let losses = w.losses("one");
    assert_eq!(losses.len(), 20);
    assert_eq!(losses, w.losses("two"), "threads");
    assert_eq!(losses, w.losses("again"), "recompute");
    assert_eq!(w.losses("bf16-one"), w.losses("bf16-two"), "threads, bf16");
    assert_ne!(losses, w.losses("bf16-one"));
    let adapter =
        |output: &str| fs::read(w.path(output).join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter("one"), adapter("two"));
    assert_eq!(adapter("one"), adapter("again"));
}

#[test]
fn the_resolved_recipe_repeats_the_run() {
    let w = Workspace::new();
    stdout(&w.train(
        "out",
        &["--set", "train.max_steps=3", "--set", "lora.target_modules=[\"q_proj\"]"],
    ));
    let (recipe, output) = (w.arg("out/recipe.toml"), w.arg("again"));
    stdout(&run(&["train", &recipe, "--output", &output]));
    assert_eq!(w.losses("out"), w.losses("again"));
    let text = |name: &str| fs::read_to_string(w.path(name)).unwrap();
    assert_eq!(text("out/recipe.toml").replace(&w.arg("out"), &output), text("again/recipe.toml"));
}

#[test]
fn a_run_goes_on_from_an_adapter_and_is_not_overwritten() {
    let w = Workspace::new();
    stdout(&w.train("out", &["--set", "train.max_steps=10"]));
    let message = error(&w.train("out", &[]), 1);
    assert!(message.contains("output.overwrite=true"), "{message}");
    stdout(&w.train("out", &["--set", "train.max_steps=12", "--set", "output.overwrite=true"]));
    assert_eq!(w.losses("out").len(), 12);

    let recipe = w.write("more.toml", "[train]\nmax_steps = 1\n[data]\neval_rows = 4\n");
    let adapter = format!("model.adapter={}", w.arg("out/adapter-last"));
    let (model, data, output) = (w.arg("model"), w.arg("rows.jsonl"), w.arg("more"));
    let args = ["train", &recipe, "--model", &model, "--data", &data, "--output", &output];
    stdout(&run(&[&args[..], &["--set", &adapter]].concat()));
    let eval_losses = |output| {
        let rows = w.metrics(output);
        rows.iter().filter_map(|row| row["eval_loss"].as_f64()).collect::<Vec<f64>>()
    };
    assert_eq!(eval_losses("more")[0], *eval_losses("out").last().unwrap());
}

#[test]
fn a_diverging_run_stops_and_keeps_what_was_measured() {
    let w = Workspace::new();
    let more = [
        "--set",
        "train.learning_rate=1e30",
        "--set",
        "train.max_grad_norm=0",
        "--set",
        "train.warmup_steps=0",
    ];
    let message = error(&w.train("out", &more), 1);
    assert!(message.contains("diverged") && message.contains("step"), "{message}");
    assert!(!w.losses("out").is_empty());
}

#[test]
fn accumulated_steps_are_the_steps_of_one_large_batch() {
    let w = Workspace::new();
    let mut same = vec!["--set", "lora.lora_dropout=0", "--set", "train.max_steps=5"];
    same.extend(["--set", "train.precision=f32"]);
    let whole = ["--set", "train.batch_size=4", "--set", "train.gradient_accumulation_steps=1"];
    stdout(&w.train("parts", &same));
    stdout(&w.train("whole", &[&same[..], &whole].concat()));
    let rows = |output: &str| w.metrics(output).into_iter().filter(|row| row.get("loss").is_some());
    for (parts, whole) in rows("parts").zip(rows("whole")) {
        assert_eq!(parts["trained_tokens"], whole["trained_tokens"]);
        for field in ["loss", "grad_norm"] {
            let (a, b) = (parts[field].as_f64().unwrap(), whole[field].as_f64().unwrap());
            assert!((a - b).abs() < 1e-4 * b, "{field}: {parts} {whole}");
        }
    }
}

#[test]
fn packed_rows_are_learned_as_rows_of_their_own() {
    for architecture in ["llama", "mistral", "qwen2", "qwen3"] {
        let w = Workspace::of(architecture);
        // Each step takes all rows, one by one or in bins.
        let same = [
            "lora.lora_dropout=0",
            "train.max_steps=4",
            "train.precision=f32",
            "train.eval_steps=4",
        ];
        let apart = ["train.batch_size=1", "train.gradient_accumulation_steps=20"];
        let packed = [
            "data.packing=true",
            "data.max_seq_len=100",
            "train.batch_size=2",
            "train.gradient_accumulation_steps=50",
        ];
        let train = |output: &str, sets: &[&str]| {
            let sets = same.iter().chain(sets).flat_map(|set| ["--set", set]);
            let output = w.train(output, &sets.collect::<Vec<_>>());
            stdout(&output);
            String::from_utf8(output.stderr).unwrap()
        };
        train("apart", &apart);
        let said = train("packed", &packed);
        assert!(said.contains(" bins of 100 tokens, "), "{said}");
        let (apart, packed) = (w.metrics("apart"), w.metrics("packed"));
        assert_eq!(apart.len(), packed.len());
        for (apart, packed) in apart.iter().zip(&packed) {
            assert_eq!(apart.get("trained_tokens"), packed.get("trained_tokens"));
            for field in ["loss", "grad_norm", "eval_loss"] {
                let Some(a) = apart.get(field).and_then(serde_json::Value::as_f64) else {
                    continue;
                };
                let b = packed[field].as_f64().unwrap();
                assert!((a - b).abs() < 2e-5 * b, "{architecture}, {field}: {apart} {packed}");
            }
        }
    }
}

#[test]
fn the_adapter_of_the_best_evaluation_is_kept() {
    let w = Workspace::new();
    // The answers to judge by are not those that are learned: the loss falls with the form and rises with the words.
    let swapped = rows(12).replace("is red", "is ???").replace("is green", "is red");
    let eval_rows = w.write("eval.jsonl", &swapped.replace("???", "green"));
    let eval_path = format!("data.eval_path={eval_rows}");
    let more = [
        "data.eval_rows=0",
        &eval_path,
        "train.eval_steps=5",
        "train.max_steps=80",
        "lora.lora_dropout=0",
    ];
    let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
    let summary = stdout(&w.train("out", &more));
    let evaluations: Vec<(u64, f64)> = w
        .metrics("out")
        .iter()
        .filter_map(|row| Some((row["step"].as_u64()?, row.get("eval_loss")?.as_f64()?)))
        .filter(|(step, _)| *step > 0)
        .collect();
    let (best, least) = *evaluations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(best > 0 && best < 80, "{evaluations:?}");
    assert!(summary.contains(&format!("of step {best})")), "{summary}");
    let loss = |adapter: &str| {
        let (model, adapter) = (w.arg("model"), w.arg(adapter));
        let args = ["eval", "--model", &model, "--adapter", &adapter, "--data", &eval_rows];
        let report = stdout(&run(&[&args[..], &["--json", "--batch-size", "2"]].concat()));
        serde_json::from_str::<serde_json::Value>(&report).unwrap()["loss"].as_f64().unwrap()
    };
    assert_eq!(loss("out/adapter"), least);
    assert_eq!(loss("out/adapter-last"), evaluations.last().unwrap().1);
}

#[test]
fn plain_lines_tell_of_progress_where_there_is_no_terminal() {
    let w = Workspace::new();
    let output = w.train("out", &["--set", "train.logging_steps=8"]);
    stdout(&output);
    let text = String::from_utf8(output.stderr).unwrap();
    for expected in
        ["step 8/20  loss ", "step 16/20  loss ", "step 20/20  loss ", "step 10  eval loss "]
    {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    assert!(!text.contains("step 9/20") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn epochs_warmup_and_held_out_share_come_from_the_recipe() {
    let w = Workspace::new();
    let completion =
        |i: usize| format!("{{\"prompt\": \"{i} \", \"completion\": \"{}\"}}", "x".repeat(1 + i));
    let completions: Vec<String> = (0..30).map(completion).collect();
    let data = w.write("rows.jsonl", &completions.join("\n"));
    w.write(
        "recipe.toml",
        "[data]\neval_fraction = 0.2\nmax_seq_len = 20\noverlength = \"drop\"\n[train]\nepochs = 2\n\
         batch_size = 4\nwarmup_ratio = 0.25\nlr_scheduler = \"constant\"\nlearning_rate = 1e-3\n",
    );
    let output = w.train("out", &[]);
    let summary = stdout(&output);
    assert!(summary.contains("--raw"), "prompts of plain rows are plain text: {summary}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains(&format!("training data {data}")) && text.contains("too long and dropped"),
        "{text}"
    );
    let rows = w.metrics("out");
    let steps: Vec<_> = rows.iter().filter(|row| row.get("loss").is_some()).collect();
    assert_eq!(steps.last().unwrap()["epoch"], 2.0);
    let warmup = (steps.len() as f64 * 0.25).ceil() as usize;
    let rate = |step: usize| steps[step]["lr"].as_f64().unwrap();
    assert!(rate(warmup - 1) < 1e-3 && rate(warmup) == 1e-3, "{steps:?}");
    let at: Vec<usize> = rows
        .iter()
        .filter(|row| row.get("eval_loss").is_some())
        .map(|row| row["step"].as_u64().unwrap() as usize)
        .collect();
    assert_eq!(at, [0, steps.len() / 2, steps.len()]);
}

#[test]
fn a_share_that_holds_no_row_out_is_said() {
    let w = Workspace::new();
    let output = w.train("out", &["--set", "data.eval_rows=0", "--set", "data.eval_fraction=1e-9"]);
    stdout(&output);
    assert!(String::from_utf8(output.stderr).unwrap().contains("warning: none of 24 rows"));
    assert!(w.metrics("out").iter().all(|row| row.get("eval_loss").is_none()));
}
