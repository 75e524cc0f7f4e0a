//! The binary on the CUDA device that the driver shows - a card, or the emulated one - against the
//! processor.

use std::fs;

use crate::support::{Workspace, run, run_with, stdout};

const ARCHITECTURES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Losses and gradient norms of the steps.
fn curve(w: &Workspace, output: &str, more: &[&str]) -> Vec<(f64, f64)> {
    stdout(&w.train(output, more));
    let steps = w.metrics(output).into_iter().filter(|row| row.get("loss").is_some());
    let number = |x: &serde_json::Value| x.as_f64().unwrap();
    steps.map(|row| (number(&row["loss"]), number(&row["grad_norm"]))).collect()
}

/// Deviations of losses and of gradient norms, step by step, relative to those expected.
fn deviations(found: &[(f64, f64)], expected: &[(f64, f64)]) -> [Vec<f64>; 2] {
    assert_eq!(found.len(), expected.len());
    let relative = |(a, b): (f64, f64)| ((a - b) / b).abs();
    let steps = || found.iter().zip(expected);
    [
        steps().map(|(a, b)| relative((a.0, b.0))).collect(),
        steps().map(|(a, b)| relative((a.1, b.1))).collect(),
    ]
}

fn largest(deviations: &[f64]) -> f64 {
    deviations.iter().copied().fold(0.0, f64::max)
}

fn mean(deviations: &[f64]) -> f64 {
    deviations.iter().sum::<f64>() / deviations.len() as f64
}

/// Rows of tokens, which need no tokenizer: some of the models know only 128.
fn tokens() -> String {
    let row = |i: usize| {
        let ids: Vec<usize> = (0..9 + i % 5).map(|j| (7 * i + 3 * j) % 96).collect();
        format!("{{\"input_ids\": {ids:?}}}\n")
    };
    (0..24).map(row).collect()
}

#[test]
fn twenty_steps_of_every_architecture_follow_the_processor() {
    for architecture in ARCHITECTURES {
        let w = Workspace::of(architecture);
        w.write("rows.jsonl", &tokens());
        let f32 = ["--set", "train.precision=f32"];
        let bf16 = ["--set", "train.precision=bf16"];
        let on =
            |device, precision: [&'static str; 2]| [&precision[..], &["--device", device]].concat();
        let exact = curve(&w, "cpu-f32", &on("cpu", f32));
        let same = deviations(&curve(&w, "cuda-f32", &on("cuda", f32)), &exact);
        let same = same.map(|of| largest(&of));
        assert!(same[0] < 1e-4 && same[1] < 1e-3, "{architecture}, f32: {same:?}");
        // How far bf16 takes the processor's own curve is how far it may take the card's: in the mean, for the
        // farthest step is a matter of luck.
        let processor = deviations(&curve(&w, "cpu-bf16", &on("cpu", bf16)), &exact);
        let card = deviations(&curve(&w, "cuda-bf16", &on("cuda", bf16)), &exact);
        for (card, processor) in card.iter().zip(&processor) {
            let (card, processor) = (mean(card), mean(processor));
            assert!(card <= 3.0 * processor, "{architecture}, bf16: {card} against {processor}");
        }
    }
}

#[test]
fn a_run_gives_the_same_bytes_again() {
    let w = Workspace::new();
    let adapter = |output: &str, more: &[&str]| {
        stdout(&w.train(output, &[&["--device", "cuda"], more].concat()));
        fs::read(w.path(output).join("adapter/adapter_model.safetensors")).unwrap()
    };
    let first = adapter("first", &[]);
    let recipe = fs::read_to_string(w.path("first/recipe.toml")).unwrap();
    assert!(recipe.contains("precision = \"bf16\""), "what a card is made for: {recipe}");
    assert!(adapter("again", &[]) == first);
    assert!(adapter("recomputed", &["--set", "train.gradient_checkpointing=true"]) == first);
}

/// From a checkpoint, and after a kill.
#[cfg(unix)]
#[test]
fn a_resumed_run_is_the_same_run() {
    for more in [["train.optim=adamw", "lora.r=4"], ["train.optim=adamw_8bit", "lora.r=64"]] {
        let w = Workspace::new();
        let mut sets = vec!["--device", "cuda", "--set", "train.max_steps=8"];
        for set in ["output.checkpoint_steps=3", "output.keep_checkpoints=99", more[0], more[1]] {
            sets.extend(["--set", set]);
        }
        let results = |output: &str| {
            let adapter = w.path(output).join("adapter-last/adapter_model.safetensors");
            (w.losses(output), fs::read(adapter).unwrap())
        };
        stdout(&w.train("whole", &sets));
        let whole = results("whole");
        let checkpoint = w.arg("whole/checkpoints/step-00000003");
        fs::create_dir(w.path("resumed")).unwrap();
        fs::copy(w.path("whole/metrics.jsonl"), w.path("resumed/metrics.jsonl")).unwrap();
        stdout(&w.train("resumed", &[&sets[..], &["--resume", &checkpoint]].concat()));
        assert!(results("resumed") == whole, "{more:?}");

        let mut child = w.start("killed", &sets);
        let checkpoint = w.path("killed/checkpoints/step-00000003");
        while !checkpoint.is_dir() {
            assert!(child.try_wait().unwrap().is_none(), "ended before its first checkpoint");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        stdout(&w.train("killed", &[&sets[..], &["--resume"]].concat()));
        assert!(results("killed") == whole, "{more:?}, killed");
    }
}

/// Steps of batches whose lengths differ and of batches whose lengths repeat.
#[test]
fn graphs_change_no_bit() {
    let w = Workspace::new();
    w.write("rows.jsonl", &tokens());
    let report = w.arg("report.json");
    let train = |output: &str, more: &[&str]| {
        let steps = ["--device", "cuda", "--set", "train.max_steps=6"];
        let variables =
            [("QLORA_CUDA_ALLOCATIONS", "shared"), ("CUDA_EMULATOR_REPORT", report.as_str())];
        stdout(&w.train_with(output, &[&steps, more].concat(), &variables));
        let adapter = fs::read(w.path(output).join("adapter/adapter_model.safetensors")).unwrap();
        (adapter, w.losses(output))
    };
    for recompute in ["train.gradient_checkpointing=false", "train.gradient_checkpointing=true"] {
        let (plain, graphs) = (format!("plain-{recompute}"), format!("graphs-{recompute}"));
        let expected = train(&plain, &["--set", recompute]);
        assert!(train(&graphs, &["--set", recompute, "--cuda-graphs"]) == expected, "{recompute}");
        // Written by the emulated driver alone.
        let Ok(report) = fs::read_to_string(&report) else { continue };
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        let calls = |call| report["calls"][call].as_u64().unwrap();
        let (launched, made) = (calls("cuGraphLaunch"), calls("cuGraphInstantiateWithFlags"));
        assert!(launched >= 2 * made, "{launched} launches of {made} graphs");
    }
    let recipe = fs::read_to_string(w.path("graphs-train.gradient_checkpointing=true/recipe.toml"));
    assert!(recipe.unwrap().contains("cuda_graphs = true"));
}

#[test]
fn answers_are_those_of_the_processor() {
    let w = Workspace::new();
    stdout(&w.train("out", &["--set", "train.max_steps=5"]));
    let (model, adapter) = (w.arg("model"), w.arg("out/adapter"));
    let answer = |device: &str| {
        let args = ["generate", "--model", &model, "--adapter", &adapter, "--prompt", "a red"];
        let more = ["--max-new-tokens", "24", "--precision", "f32", "--device", device];
        stdout(&run(&[&args[..], &more].concat()))
    };
    assert_eq!(answer("cuda"), answer("cpu"));
}

#[test]
fn what_autotune_measures_is_kept_and_changes_no_result() {
    let w = Workspace::new();
    let cache = w.arg("cache");
    let kept = [("XDG_CACHE_HOME", cache.as_str())];
    let adapter = |output: &str| {
        stdout(&w.train_with(output, &["--device", "cuda", "--set", "train.max_steps=2"], &kept));
        fs::read(w.path(output).join("adapter/adapter_model.safetensors")).unwrap()
    };
    let before = adapter("before");
    let tune = ["autotune", "--model", &w.arg("model"), "--max-tokens", "32", "--device", "cuda"];
    let text = stdout(&run_with(&tune, &kept));
    let path = text.lines().last().unwrap().strip_prefix("kept in ").unwrap();
    let routes = fs::read_to_string(path).unwrap();
    assert!(routes.contains("\"n\": 128") && routes.contains("\"rows\": 32"), "{routes}");
    fs::write(path, routes.replace("fused", "dequantized")).unwrap();
    assert!(adapter("after") == before);

    fs::write(path, "{").unwrap();
    let damaged =
        w.train_with("damaged", &["--device", "cuda", "--set", "train.max_steps=1"], &kept);
    let warning = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(damaged.status.success() && warning.contains("autotune"), "{warning}");
}

/// The emulated driver stands in for the library; a machine with a real card may lack it.
#[test]
fn cublas_is_taken_where_it_was_measured_and_is_there() {
    if std::env::var_os("CUDA_EMULATOR_EXIT_CODE").is_none() {
        return;
    }
    let w = Workspace::new();
    let cache = w.arg("cache");
    let kept = [("XDG_CACHE_HOME", cache.as_str())];
    let tune = ["autotune", "--model", &w.arg("model"), "--max-tokens", "32", "--device", "cuda"];
    let text = stdout(&run_with(&[&tune[..], &["--cublas"]].concat(), &kept));
    assert!(text.lines().nth(2).unwrap().split_whitespace().count() == 8, "a third time: {text}");
    let path = text.lines().last().unwrap().strip_prefix("kept in ").unwrap();
    let routes = |route: &str| {
        let text = fs::read_to_string(path).unwrap();
        let with = |text: String, old| text.replace(&format!("\"{old}\""), &format!("\"{route}\""));
        fs::write(path, ["fused", "dequantized", "cublas"].into_iter().fold(text, with)).unwrap();
    };
    let train = |output: &str, variables: &[(&str, &str)]| {
        let steps = ["--device", "cuda", "--set", "train.max_steps=3"];
        let output = w.train_with(output, &steps, &[&kept[..], variables].concat());
        stdout(&output);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let losses = |output: &str| -> Vec<f64> {
        let steps = w.metrics(output).into_iter();
        steps.filter_map(|row| row.get("loss").and_then(serde_json::Value::as_f64)).collect()
    };
    routes("fused");
    train("fused", &[]);
    routes("cublas");
    let said = train("cublas", &[("CUDA_EMULATOR_LOG", "1")]);
    assert!(said.contains("cublasLtMatmul -> 0") && !said.contains("is not there"));
    let near = |(a, b): (f64, f64)| ((a - b) / b).abs() < 1e-2;
    assert!(losses("cublas").into_iter().zip(losses("fused")).all(near));

    // The driver alone.
    let driver = w.path("driver");
    fs::create_dir(&driver).unwrap();
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap();
    let library = std::env::split_paths(&libraries)
        .map(|folder| folder.join("libcuda.so.1"))
        .find(|path| path.is_file())
        .unwrap();
    fs::copy(library, driver.join("libcuda.so.1")).unwrap();
    let alone = [("LD_LIBRARY_PATH", driver.to_str().unwrap()), ("CUDA_EMULATOR_LOG", "1")];
    let said = train("without", &alone);
    assert!(said.contains("libcublasLt.so.12 is not there") && !said.contains("cublasLtMatmul"));
    assert!(w.losses("without") == w.losses("fused"));
}

#[test]
fn the_device_is_described() {
    let text = stdout(&run(&["device"]));
    assert!(text.contains("cuda:0") && text.contains("compute capability"), "{text}");
}
