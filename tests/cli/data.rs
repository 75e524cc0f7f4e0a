//! The data of a run: sources, preflight, what `data` shows.

use std::fs;

use serde_json::Value;

use crate::support::{Workspace, error, rows, run, stdout};

/// `data COMMAND` on the workspace's recipe and rows.
fn data(w: &Workspace, command: &str, more: &[&str]) -> std::process::Output {
    let (recipe, model, rows) = (w.arg("recipe.toml"), w.arg("model"), w.arg("rows.jsonl"));
    let args = ["data", command, &recipe, "--model", &model, "--data", &rows];
    run(&[&args[..], more].concat())
}

#[test]
fn check_counts_and_draws_the_rows() {
    let w = Workspace::new();
    let more = ["--set", "train.epochs=2", "--tokens-per-second", "10"];
    let text = stdout(&data(&w, "check", &more));
    for expected in [
        "training rows: 20 read, 20 kept",
        "evaluation rows: 4 read",
        "█",
        "run: 20 steps, 4.00 epochs",
        " min ",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let packed = ["--set", "data.packing=true", "--set", "data.max_seq_len=100", "--json"];
    let report: Value = serde_json::from_str(&stdout(&data(&w, "check", &packed))).unwrap();
    let train = &report["train"];
    let counted: u64 =
        train["lengths"]["counts"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).sum();
    assert_eq!(counted, 20);
    assert!(train["trained_tokens"].as_u64() < train["tokens"].as_u64());
    let bins = train["bins"][0].as_u64().unwrap();
    assert!(bins < 20 && bins * 100 >= train["tokens"].as_u64().unwrap(), "{train}");
}

#[test]
fn fatal_findings_stop_a_run_unless_waived() {
    let w = Workspace::new();
    let mut lines: Vec<String> = rows(24).lines().map(str::to_owned).collect();
    lines[4] = "{\"messages\": [{\"role\": \"user\"}]}".to_owned();
    lines[9] = "{".to_owned();
    w.write("rows.jsonl", &lines.join("\n"));
    let message = error(&w.train("out", &[]), 1);
    for part in [
        "bad-rows: 2 rows",
        "line 5: field `messages[0].content`: is missing",
        "data.waive = [\"bad-rows\"]",
    ] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(!w.path("out").exists(), "nothing was begun");

    let output = data(&w, "check", &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["FATAL bad-rows", "line 5: field `messages[0].content`", "line 10: not valid JSON"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let waived = ["--set", "data.waive=[\"bad-rows\"]", "--set", "train.max_steps=2"];
    stdout(&data(&w, "check", &waived));
    let output = w.train("out", &waived);
    stdout(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("warning: bad-rows: 2 rows cannot be used") && said.contains(": 18 rows"),
        "{said}"
    );
}

#[test]
fn leaked_rows_and_repeated_rows_are_found() {
    let w = Workspace::new();
    let eval = w.write("eval.jsonl", &rows(8));
    let eval_path = format!("data.eval_path={eval}");
    let more = ["--set", "data.eval_rows=0", "--set", &eval_path];
    let message = error(&w.train("out", &more), 1);
    assert!(message.contains("leakage: 8 of 8 evaluation rows"), "{message}");
    w.write("rows.jsonl", &[rows(24), rows(3)].concat());
    let text = String::from_utf8(data(&w, "check", &more).stdout).unwrap();
    assert!(text.contains("warning duplicates: 3 training rows"), "{text}");
    assert!(text.contains("line 25 is") && text.contains("line 1 again"), "{text}");
}

#[test]
fn show_marks_what_is_trained() {
    let w = Workspace::new();
    let text = stdout(&data(&w, "show", &["--line", "2", "--set", "data.eval_rows=0"]));
    let first = text.lines().next().unwrap();
    assert!(first.contains("rows.jsonl, line 2: ") && first.contains(" trained"), "{text}");
    assert!(text.contains("⟦is blue") && text.matches('⟦').count() == 2, "{text}");
    let ids = text.lines().find_map(|line| line.strip_prefix("ids: ")).unwrap();
    // Bytes are their own ids.
    assert!(ids.contains("⟦105 115 32 98 108 117 101"), "{ids}");
    assert_eq!(stdout(&data(&w, "show", &["-n", "2"])).matches("ids: ").count(), 2);
    let message = error(&data(&w, "show", &["--line", "99"]), 1);
    assert!(message.contains("no such row"), "{message}");
}

#[test]
fn an_adapter_answers_with_the_template_it_was_trained_with() {
    let w = Workspace::new();
    let template = ["--set", "data.chat_template=zephyr", "--set", "train.max_steps=2"];
    stdout(&w.train("out", &template));
    let written = fs::read_to_string(w.path("out/adapter/chat_template.jinja")).unwrap();
    assert!(written.contains("<|assistant|>"), "{written}");
    for name in ["adapter/tokenizer.json", "adapter-last/tokenizer_config.json"] {
        assert!(w.path("out").join(name).is_file(), "{name}");
    }
    let (model, rows, adapter) = (w.arg("model"), w.arg("rows.jsonl"), w.arg("out/adapter"));
    let args = ["eval", "--model", &model, "--data", &rows, "--json"];
    let tokens = |more: &[&str]| {
        let report: Value =
            serde_json::from_str(&stdout(&run(&[&args[..], more].concat()))).unwrap();
        report["tokens"].as_u64().unwrap()
    };
    assert_ne!(tokens(&["--adapter", &adapter]), tokens(&[]), "another template");
    let text = stdout(&data(&w, "show", &template));
    assert!(text.contains("<|assistant|>\n⟦is "), "{text}");

    let message = error(&w.train("other", &["--set", "data.chat_template=phi"]), 1);
    assert!(message.contains("\"phi\" needs the token"), "{message}");
    let message = error(&w.train("other", &["--set", "data.chat_template=vicuna"]), 1);
    assert!(message.contains("built in are chatml"), "{message}");
}

#[test]
fn several_sources_with_fields_and_weights_are_one_run() {
    let w = Workspace::new();
    let table = w.write("table.csv", "question,answer\na,b\nc,d\n");
    let chats = w.write("chats.jsonl", &rows(4));
    w.write(
        "recipe.toml",
        &format!(
            "[train]\nmax_steps = 2\n[data]\nprompt_format = \"chat\"\ntrain_on = \"last-answer\"\n\
             [[data.sources]]\npath = \"{table}\"\nweight = 3\nfields = {{ prompt = \"question\", completion = \"answer\" }}\n\
             [[data.sources]]\npath = \"{chats}\"\n"
        ),
    );
    let (recipe, model) = (w.arg("recipe.toml"), w.arg("model"));
    let report = stdout(&run(&[
        "data",
        "check",
        &recipe,
        "--model",
        &model,
        "--json",
        "--set",
        "train.batch_size=1",
    ]));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["train"]["rows"], 6);
    assert_eq!(report["work"]["epochs"], 0.2, "2 steps of 2 x 3 + 4 rows");
    let (output, again) = (w.arg("out"), w.arg("again"));
    stdout(&run(&["train", &recipe, "--model", &model, "--output", &output]));
    stdout(&run(&["train", &w.arg("out/recipe.toml"), "--output", &again]));
    assert_eq!(w.losses("out"), w.losses("again"), "the resolved recipe holds the sources");
}

#[test]
fn tokens_of_large_files_are_kept() {
    let w = Workspace::new();
    // Fields that are no part of a format make a large file of short rows.
    let source = "x".repeat(1000);
    let row = |i: usize| {
        format!(
            "{{\"source\": \"{source}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{i}?\"}}, \
             {{\"role\": \"assistant\", \"content\": \"is {i}\"}}]}}\n"
        )
    };
    let rows: String = (0..1000).map(row).collect();
    assert!(rows.len() > 1 << 20);
    w.write("rows.jsonl", &rows);
    let cache = w.arg("cache");
    let train = |output: &str, more: &[&str]| {
        let more = [&["--set", "train.max_steps=2", "--set", "train.batch_size=1"], more].concat();
        let output = w.train_with(output, &more, &[("XDG_CACHE_HOME", &cache)]);
        stdout(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    let (first, second) = (train("first", &[]), train("second", &[]));
    let kept = "tokens of an earlier start on the same rows: ";
    assert!(!first.contains(kept) && second.contains(kept), "{first}\n{second}");
    let off = train("off", &["--set", "data.cache=false"]);
    assert!(!off.contains(kept), "{off}");
    assert_eq!((w.losses("first"), w.losses("first")), (w.losses("second"), w.losses("off")));

    let entries = fs::read_dir(w.path("cache/qlora-train/tokens")).unwrap();
    let entries: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1);
    let bytes = fs::read(&entries[0]).unwrap();
    fs::write(&entries[0], &bytes[..bytes.len() / 2]).unwrap();
    let damaged = train("damaged", &[]);
    assert!(damaged.contains("; the rows are tokenised again"), "{damaged}");
    assert_eq!(w.losses("damaged"), w.losses("first"));
    assert_eq!(fs::read(&entries[0]).unwrap(), bytes, "and is whole again");
}
