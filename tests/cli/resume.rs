//! Runs that stop, are killed or meet damage, and go on as if nothing had happened.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Workspace, error, rows, stdout};

/// The files that a run is for.
fn results(w: &Workspace, output: &str) -> Vec<Vec<u8>> {
    let read = |name: &str| fs::read(w.path(output).join(name)).unwrap();
    let mut all = Vec::new();
    for adapter in ["adapter", "adapter-last"] {
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            all.push(read(&format!("{adapter}/{file}")));
        }
    }
    all
}

/// Rows of steps and evaluations, without what depends on the clock.
fn course(w: &Workspace, output: &str) -> Vec<Value> {
    let mut rows = w.metrics(output);
    for row in &mut rows {
        for field in ["elapsed_s", "tokens_per_second", "peak_rss_bytes"] {
            row.as_object_mut().unwrap().remove(field);
        }
    }
    rows
}

fn checkpoint(output: &str, step: usize) -> String {
    format!("{output}/checkpoints/step-{step:08}")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts a run of one thread in the background, its messages in `output.log`.
fn start(w: &Workspace, output: &str, more: &[&str]) -> Child {
    w.start(output, &[&["--device", "cpu", "--threads", "1"], more].concat())
}

/// Waits until `condition` holds, or half a minute.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        sleep(Duration::from_millis(5));
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Far more steps than a test takes.
const ENDLESS: [&str; 2] = ["--set", "train.max_steps=1000000"];

#[test]
fn a_resumed_run_is_the_same_run() {
    for (precision, optim, r, by_length) in
        [("f32", "adamw", 4, true), ("bf16", "adamw_8bit", 64, false)]
    {
        let w = Workspace::new();
        let sets = [
            format!("train.precision={precision}"),
            format!("train.optim={optim}"),
            format!("lora.r={r}"),
            format!("data.group_by_length={by_length}"),
        ];
        let mut more: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        more.extend(["--set", "output.checkpoint_steps=3", "--set", "output.keep_checkpoints=99"]);
        stdout(&w.train("whole", &[&more[..], &["--threads", "2"]].concat()));
        let expected = (results(&w, "whole"), course(&w, "whole"));
        for (step, threads) in [(3, "1"), (9, "2"), (10, "1"), (18, "2"), (20, "1")] {
            let output = format!("from-{step}");
            let from = w.arg(&checkpoint("whole", step));
            // What was written before lies where the run is resumed.
            fs::create_dir(w.path(&output)).unwrap();
            for file in ["metrics.jsonl", "adapter"] {
                let (from, to) = (w.path("whole").join(file), w.path(&output).join(file));
                let copied = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
                assert!(copied.success());
            }
            fs::create_dir_all(w.path(&checkpoint(&output, 0))).unwrap();
            let again = ["--threads", threads, "--resume", &from];
            stdout(&w.train(&output, &[&more[..], &again].concat()));
            let same =
                |part: &str, same: bool| assert!(same, "{precision}, from step {step}: {part}");
            same("metrics", course(&w, &output) == expected.1);
            if step < 20 {
                same("adapters", results(&w, &output) == expected.0);
            }
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_used() {
    let w = Workspace::new();
    let more = ["--set", "output.checkpoint_steps=4", "--set", "output.keep_checkpoints=3"];
    stdout(&w.train("out", &more));
    let expected = (results(&w, "out"), course(&w, "out"));
    // The newest three, and the best.
    let kept = fs::read_dir(w.path("out/checkpoints")).unwrap().count();
    assert!((3..=4).contains(&kept), "{kept}");
    let damage = |name: String, bytes: &dyn Fn(&mut Vec<u8>)| {
        let path = w.path(&name);
        let mut contents = fs::read(&path).unwrap();
        bytes(&mut contents);
        fs::write(path, contents).unwrap();
    };
    damage(checkpoint("out", 20) + "/adapter/adapter_model.safetensors", &|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    damage(checkpoint("out", 16) + "/state.json", &|bytes| bytes.truncate(20));
    let output = w.train("out", &[&more[..], &["--resume"]].concat());
    stdout(&output);
    let said = stderr(&output);
    for expected in [
        "step-00000020/adapter/adapter_model.safetensors: is not what was written",
        "step-00000016/state.json: has 20 bytes",
        "going on from",
        "step-00000012",
    ] {
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
    assert!(results(&w, "out") == expected.0 && course(&w, "out") == expected.1);

    damage(checkpoint("out", 20) + "/manifest.json", &|bytes| bytes.clear());
    let message = error(&w.train("out", &["--resume", &w.arg(&checkpoint("out", 20))]), 1);
    assert!(message.contains("manifest.json: not a manifest"), "{message}");
    let newer = |bytes: &mut Vec<u8>| {
        *bytes = String::from_utf8(bytes.clone())
            .unwrap()
            .replace("\"version\": 1", "\"version\": 9")
            .into();
    };
    damage(checkpoint("out", 16) + "/manifest.json", &newer);
    let message = error(&w.train("out", &[&more[..], &["--resume"]].concat()), 1);
    assert!(message.contains("version 9"), "{message}");
    for step in [12, 16, 20] {
        let _ = fs::remove_file(w.path(&checkpoint("out", step)).join("optimizer.safetensors"));
        let _ = fs::write(w.path(&checkpoint("out", step)).join("manifest.json"), "{}");
    }
    for entry in fs::read_dir(w.path("out/checkpoints")).unwrap() {
        fs::write(entry.unwrap().path().join("manifest.json"), "{}").unwrap();
    }
    let message = error(&w.train("out", &[&more[..], &["--resume"]].concat()), 1);
    assert!(message.contains("every checkpoint is damaged"), "{message}");
}

#[test]
fn another_run_is_refused_by_field_unless_allowed() {
    let w = Workspace::new();
    stdout(&w.train("out", &["--set", "train.max_steps=4", "--set", "train.eval_steps=2"]));
    let same = ["--set", "train.max_steps=4", "--set", "train.eval_steps=2", "--resume"];
    let refused = |field: &str, more: &[&str]| {
        let message = error(&w.train("out", &[more, &same[..]].concat()), 1);
        assert!(message.contains(&format!("`{field}` was")), "{message}");
        assert!(message.contains(&format!("--allow-change {field}")), "{message}");
    };
    refused("train.learning_rate", &["--set", "train.learning_rate=1e-3"]);
    refused("lora.r", &["--set", "lora.r=8"]);
    refused("data.group_by_length", &["--set", "data.group_by_length=true"]);
    let change = |name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(w.path(name)).unwrap();
        assert!(text.contains(from));
        fs::write(w.path(name), text.replacen(from, to, 1)).unwrap();
        text
    };
    let before = change("rows.jsonl", "is red", "is rad");
    refused("data.path", &[]);
    fs::write(w.path("rows.jsonl"), before).unwrap();
    let before = change("model/tokenizer_config.json", "{", "{ ");
    refused("tokenizer", &[]);
    fs::write(w.path("model/tokenizer_config.json"), before).unwrap();
    let before = change("model/config.json", "{", "{ ");
    refused("model.path", &[]);
    fs::write(w.path("model/config.json"), before).unwrap();

    // What no result depends on may change, and what is allowed by name.
    stdout(&w.train("out", &[&same[..], &["--set", "train.logging_steps=1"]].concat()));
    let longer = ["--set", "train.max_steps=6", "--set", "train.eval_steps=2", "--resume"];
    let output = w.train("out", &[&longer[..], &["--allow-change", "train.max_steps"]].concat());
    stdout(&output);
    assert!(stderr(&output).contains("train.max_steps is 6, and was 4"), "{}", stderr(&output));
    assert_eq!(w.losses("out").len(), 6);
}

#[test]
fn a_finished_run_stays_and_an_empty_directory_begins() {
    let w = Workspace::new();
    let more = ["--set", "train.max_steps=3", "--resume"];
    let output = w.train("out", &more);
    assert!(stdout(&output).contains("3 steps"));
    assert!(stderr(&output).contains("nothing to go on from"), "{}", stderr(&output));
    let (before, metrics) = (results(&w, "out"), w.metrics("out"));
    assert!(stdout(&w.train("out", &more)).contains("3 steps"));
    assert!(results(&w, "out") == before && w.metrics("out") == metrics);
    fs::remove_dir_all(w.path("out/checkpoints")).unwrap();
    let message = error(&w.train("out", &more), 1);
    assert!(message.contains("without checkpoints"), "{message}");
}

#[cfg(unix)]
#[test]
fn signals_save_and_say_how_to_go_on() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let w = Workspace::new();
        let mut child = start(&w, "out", &ENDLESS);
        let metrics = w.path("out/metrics.jsonl");
        wait_until("steps", || lines(&metrics) > 5);
        kill(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        let said = fs::read_to_string(w.path("out.log")).unwrap();
        let last = w.metrics("out").iter().filter_map(|row| row["step"].as_u64()).max().unwrap();
        assert!(said.contains(&format!("after step {last} of 1000000; go on with:")), "{said}");
        assert!(said.trim_end().ends_with("--resume") && !said.contains("error"), "{said}");
        assert!(w.path(&checkpoint("out", last as usize)).join("manifest.json").is_file());

        // Time is over at once, yet what was saved is found and kept.
        let output = w.train("out", &[&ENDLESS[..], &["--resume", "--max-time", "1ms"]].concat());
        stdout(&output);
        let said = stderr(&output);
        assert!(said.contains(&format!("stopped by --max-time after step {last} ")), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn one_process_at_a_time_and_no_lock_outlives_its_process() {
    let w = Workspace::new();
    let mut child =
        start(&w, "out", &[&ENDLESS[..], &["--set", "output.checkpoint_steps=1"]].concat());
    wait_until("a checkpoint", || w.path("out/checkpoints").is_dir());
    let more = [&ENDLESS[..], &["--max-time", "1s"]].concat();
    for how in [&["--resume"][..], &["--set", "output.overwrite=true"]] {
        let message = error(&w.train("out", &[&more[..], how].concat()), 1);
        assert!(message.contains("another process trains into this directory"), "{message}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = w.train("out", &[&more[..], &["--resume"]].concat());
    stdout(&output);
    assert!(stderr(&output).contains("stopped by --max-time after step"), "{}", stderr(&output));
}

/// A short form of `scripts/kill-storm.sh`.
#[cfg(unix)]
#[test]
fn a_run_that_is_killed_again_and_again_comes_to_the_same_end() {
    let w = Workspace::new();
    let more = ["--set", "train.max_steps=60", "--set", "output.checkpoint_steps=1"];
    stdout(&w.train("whole", &more));
    let again = [&more[..], &["--resume"]].concat();
    let (mut kills, mut lives) = (0, 0_u64);
    loop {
        let mut child = start(&w, "out", &again);
        lives += 1;
        // Anywhere from the first file to the last step; at last it may end.
        let patience =
            Duration::from_millis(if kills < 8 { 100 + lives * 7_919 % 400 } else { 60_000 });
        let born = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if born.elapsed() > patience {
                break None;
            }
            sleep(Duration::from_millis(1));
        };
        if let Some(status) = status {
            assert!(status.success(), "{}", fs::read_to_string(w.path("out.log")).unwrap());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 0, "the run was too fast to be killed");
    assert!(results(&w, "out") == results(&w, "whole"), "after {kills} kills");
    assert!(course(&w, "out") == course(&w, "whole"), "after {kills} kills");
    let left: Vec<_> =
        fs::read_dir(w.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".tmp-")), "{left:?}");
}

/// A limit on the size of files stands in for a full disk: weights do not fit, everything else does.
#[cfg(target_os = "linux")]
#[test]
fn training_goes_on_while_nothing_can_be_saved() {
    let w = Workspace::new();
    w.write("rows.jsonl", &rows(24));
    let command = format!(
        "ulimit -f 16; trap '' XFSZ; exec {} train {} --device cpu --model {} --data {} --output {} \
         --set output.checkpoint_steps=5",
        env!("CARGO_BIN_EXE_qlora-train"),
        w.arg("recipe.toml"),
        w.arg("model"),
        w.arg("rows.jsonl"),
        w.arg("out")
    );
    let log = fs::File::create(w.path("out.log")).unwrap();
    let mut child = Command::new("bash")
        .args(["-c", &command])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let said = || fs::read_to_string(w.path("out.log")).unwrap();
    // The run is over but for what must be saved.
    wait_until("the last step", || said().contains("warning: step 20 could not be saved"));
    assert!(said().contains("the disk is full: make room"), "{}", said());
    kill(&child, "-TERM");
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{}", said());
    assert!(said().contains("error: cannot save step 20"), "{}", said());
    assert_eq!(w.losses("out").len(), 20);
    assert!(
        !w.path("out/adapter").exists()
            && !w.path("out/checkpoints").join("step-00000020").exists()
    );
    stdout(&w.train("out", &["--resume"]));
    stdout(&w.train("whole", &[]));
    assert!(results(&w, "out") == results(&w, "whole"));
}
