//! What a run takes, planned and obeyed.

use serde_json::Value;

use crate::support::{Workspace, error, run, stdout};

#[test]
fn a_run_keeps_what_its_budget_has_room_for() {
    let w = Workspace::new();
    let more = ["--device", "cpu", "--set", "train.max_steps=3", "--set", "output.overwrite=true"];
    stdout(&w.train("all", &more));
    let (mut kibibytes, mut recomputed) = (4096_u64, 0);
    loop {
        let budget = format!("{kibibytes}KiB");
        let output = w.train("less", &[&more[..], &["--memory-budget", &budget]].concat());
        if !output.status.success() {
            error(&output, 1);
            let message = String::from_utf8_lossy(&output.stderr);
            for part in ["the run takes ", "computed again", "train.batch_size = 1", "adamw_8bit"] {
                assert!(message.contains(part), "{message}");
            }
            break;
        }
        recomputed += u32::from(String::from_utf8_lossy(&output.stderr).contains("computed again"));
        assert_eq!(w.losses("all"), w.losses("less"), "{budget}");
        kibibytes = kibibytes * 19 / 20;
    }
    assert!(recomputed > 0, "no budget between everything and nothing was tried");
}

#[test]
fn a_model_is_planned_by_its_name_or_its_config_alone() {
    let plan = |more: &[&str]| -> Value {
        let args = [&["plan", "--device", "cpu", "--json"], more].concat();
        serde_json::from_str(&stdout(&run(&args))).unwrap()
    };
    let whole = plan(&["--model", "llama-3.2-1b", "--seq-len", "256", "--memory-budget", "64GiB"]);
    let total = |plan: &Value| plan["total"].as_u64().unwrap();
    assert!(total(&whole) > 1 << 30, "{whole}");
    let budget = format!("{}MiB", (total(&whole) >> 20) - 64);
    let less = plan(&["--model", "llama-3.2-1b", "--seq-len", "256", "--memory-budget", &budget]);
    let flops = |plan: &Value| plan["step"]["flops"].as_u64().unwrap();
    assert!(total(&less) < total(&whole) && flops(&less) >= flops(&whole));
    let longest = plan(&["--model", "llama-3.2-1b", "--memory-budget", "3GiB", "--max-seq-len"]);
    assert!(longest["seq_len"].as_u64().unwrap() > 1000 && total(&longest) <= 3 << 30, "{longest}");

    let w = Workspace::new();
    let dir = w.path("config-alone");
    std::fs::create_dir(&dir).unwrap();
    std::fs::copy(w.path("model/config.json"), dir.join("config.json")).unwrap();
    let shape = ["--seq-len", "16", "--batch-size", "2", "--memory-budget", "1GiB"];
    let of = |model: &str| plan(&[&["--model", model][..], &shape].concat());
    // The checkpoint's own tensors are f32; its config.json says so too.
    assert_eq!(of(&w.arg("config-alone")), of(&w.arg("model")));

    let message = error(&run(&["plan", "--model", "llama-9", "--device", "cpu"]), 1);
    assert!(message.contains("llama-3.1-8b"), "{message}");
    let message = error(&run(&["plan", "--model", "qwen3-8b", "--device", "rtx"]), 2);
    assert!(message.contains("rtx4090"), "{message}");
}
