//! What a run tells of itself: messages, event files, its page, and steps that it passes over.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::support::{Workspace, error, run_with, stdout};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SHORT: [&str; 2] = ["--set", "train.max_steps=4"];

#[test]
fn messages_have_levels_and_a_form_for_programs() {
    let w = Workspace::new();
    let said = |output: &str, more: &[&str], variable: &str| {
        let run = w.train_with(output, &[&SHORT, more].concat(), &[("QLORA_LOG", variable)]);
        stdout(&run);
        stderr(&run)
    };
    let usual = said("usual", &[], "");
    assert!(
        usual.contains("\nstep 0  eval loss ") && usual.contains("\nstep 4/4  loss "),
        "{usual}"
    );
    assert!(!usual.contains("debug: ") && !usual.contains('\u{1b}'), "{usual}");
    assert_eq!(said("quiet", &["-q"], ""), "");
    assert_eq!(said("variable", &[], "error"), "");
    let verbose = said("verbose", &["-v"], "error");
    assert!(verbose.contains("\ndebug: step 3  loss "), "{verbose}");
    let part = said("part", &["--log-level", "warn,trainer::sft=info"], "");
    assert!(part.starts_with("step 0  eval loss"), "{part}");

    let json = said("json", &["--log-format", "json"], "");
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let eval = lines.iter().find(|line| line.get("perplexity").is_some()).unwrap();
    assert_eq!((&eval["level"], &eval["step"]), (&"INFO".into(), &0.into()));
    assert!(eval["loss"].is_f64() && eval["message"].as_str().unwrap().contains("eval loss"));

    let wrong = run_with(&["device"], &[("QLORA_LOG", "loud=x=y")]);
    assert!(error(&wrong, 2).contains("QLORA_LOG=loud=x=y: expected error, warn"));
    let failed = w.train("usual", &[&SHORT[..], &["--log-format", "json"]].concat());
    let last: Value = serde_json::from_str(stderr(&failed).lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR");
}

fn event_files(w: &Workspace, output: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(w.path(output).join("tensorboard")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_part_of_a_run_has_an_event_file() {
    let w = Workspace::new();
    stdout(&w.train("out", &SHORT));
    assert_eq!(event_files(&w, "out").len(), 1);
    let size = |output: &str| {
        event_files(&w, output).iter().map(|path| fs::metadata(path).unwrap().len()).sum::<u64>()
    };
    assert!(size("out") > 500, "{}", size("out"));
    stdout(&w.train("out", &[&SHORT[..], &["--resume"]].concat()));
    assert_eq!(event_files(&w, "out").len(), 2);
    let again = ["--set", "output.overwrite=true"];
    stdout(&w.train("out", &[&SHORT[..], &again].concat()));
    assert_eq!(event_files(&w, "out").len(), 1);
    let without = ["--set", "output.tensorboard=false"];
    stdout(&w.train("out", &[&SHORT[..], &again, &without].concat()));
    assert!(event_files(&w, "out").is_empty());
}

#[test]
fn the_page_shows_data_and_answers_and_they_change_no_result() {
    let w = Workspace::new();
    stdout(&w.train("with", &SHORT));
    let none = ["--set", "output.samples=0"];
    stdout(&w.train("without", &[&SHORT[..], &none].concat()));
    let adapter = |output: &str| {
        fs::read(w.path(output).join("adapter-last/adapter_model.safetensors")).unwrap()
    };
    assert!(adapter("with") == adapter("without"));
    assert_eq!(w.losses("with"), w.losses("without"));
    let samples = |output: &str| -> Value {
        serde_json::from_slice(&fs::read(w.path(output).join("samples.json")).unwrap()).unwrap()
    };
    let found = samples("with");
    assert_eq!(found.as_array().unwrap().len(), 3);
    for sample in found.as_array().unwrap() {
        assert!(sample["expected"].as_str().unwrap().starts_with("is "), "{sample}");
        assert!(sample["before"].is_string() && sample["after"].is_string(), "{sample}");
    }
    let page = |output: &str| fs::read_to_string(w.path(output).join("report.html")).unwrap();
    for part in ["<h2>Data</h2>", "<th>Evaluation</th>", "Answers before and after", "is red"] {
        assert!(page("with").contains(part), "{part}");
    }
    assert!(page("without").contains("<h2>Data</h2>") && !page("without").contains("Answers"));

    // The scores are those of the samples.
    let scores = |output: &str| -> Vec<(u64, f64)> {
        let row = |row: &Value| Some((row["step"].as_u64()?, row.get("exact_match")?.as_f64()?));
        w.metrics(output).iter().filter_map(row).collect()
    };
    let share = |when: &str| {
        let right = |sample: &&Value| sample[when] == sample["expected"];
        found.as_array().unwrap().iter().filter(right).count() as f64 / 3.0
    };
    let last = w.losses("with").len() as u64;
    assert_eq!(scores("with"), [(0, share("before")), (last, share("after"))]);
    assert!(scores("without").is_empty());

    // What was answered before the first step stays when a run goes on.
    let before = found[0]["before"].clone();
    let longer = ["--set", "train.max_steps=8", "--allow-change", "train.max_steps", "--resume"];
    stdout(&w.train("with", &longer));
    assert_eq!(samples("with")[0]["before"], before);
    assert_eq!(scores("with").iter().map(|score| score.0).collect::<Vec<_>>(), [0, 4, 8]);
}

/// Rows that are all alike, but for one.
fn rows_with_a_strange_one(strange: usize) -> String {
    let row = |i: usize| {
        let answer = if i == strange { "QXZ#@~^%$&*|QXZ" } else { "is red" };
        let letter = char::from(b'a' + (i % 3) as u8);
        format!("{{\"prompt\": \"{letter} red \", \"completion\": \"{answer}\"}}\n")
    };
    (1..=100).map(row).collect()
}

#[test]
fn a_spike_is_passed_over_and_a_resumed_run_does_the_same() {
    let w = Workspace::new();
    w.write("rows.jsonl", &rows_with_a_strange_one(90));
    let sets = [
        "data.eval_rows=0",
        "data.shuffle=false",
        "data.waive=[\"duplicates\", \"missing-end\"]",
        "train.max_steps=50",
        "train.gradient_accumulation_steps=1",
        "train.skip_loss_spikes=3.0",
        "output.checkpoint_steps=7",
        "output.keep_checkpoints=99",
    ];
    let more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let output = w.train("whole", &more);
    assert!(stdout(&output).contains("passed over  1 steps"));
    let message = "step 45 is passed over: the loss of ";
    let said = stderr(&output);
    assert!(
        said.contains(message) && said.contains("line 89; ") && said.contains("line 90)"),
        "{said}"
    );
    let skipped = |output: &str| -> Vec<Value> {
        w.metrics(output).into_iter().filter(|row| row.get("skipped").is_some()).collect()
    };
    assert_eq!(skipped("whole").len(), 1);
    let adapter = |output: &str| {
        fs::read(w.path(output).join("adapter-last/adapter_model.safetensors")).unwrap()
    };
    for step in [28, 42] {
        let output = format!("from-{step}");
        let from = w.arg(&format!("whole/checkpoints/step-{step:08}"));
        stdout(&w.train(&output, &[&more[..], &["--resume", &from]].concat()));
        assert_eq!(skipped(&output)[0]["skipped"], skipped("whole")[0]["skipped"]);
        assert!(adapter(&output) == adapter("whole"), "from {step}");
    }
    let never = ["--set", "train.skip_loss_spikes=0"];
    stdout(&w.train("never", &[&more[..], &never].concat()));
    assert!(skipped("never").is_empty() && adapter("never") != adapter("whole"));
}
