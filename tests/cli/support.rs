//! Runs the binary on a tiny model with a byte-level tokenizer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A directory with a model (`model`), rows (`rows.jsonl`) and a recipe (`recipe.toml`).
pub(crate) struct Workspace {
    dir: TempDir,
}

impl Workspace {
    pub(crate) fn new() -> Self {
        Self::of("llama")
    }

    /// With the tiny model of an architecture.
    pub(crate) fn of(architecture: &str) -> Self {
        let this = Self { dir: tempfile::tempdir().unwrap() };
        let model = this.path("model");
        fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let from = fixtures().join("models").join(architecture).join(file);
            fs::copy(from, model.join(file)).unwrap();
        }
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(fixtures().join("tokenizer").join(file), model.join(file)).unwrap();
        }
        this.write("rows.jsonl", &rows(24));
        this.write(
            "recipe.toml",
            "[lora]\nr = 4\nlora_dropout = 0.1\n[data]\neval_rows = 4\n[train]\nmax_steps = 20\nbatch_size = 2\n\
             gradient_accumulation_steps = 2\nlearning_rate = 1e-2\nwarmup_steps = 2\neval_steps = 10\n",
        );
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.arg(name)
    }

    /// `train` into the directory `output`, with more arguments.
    pub(crate) fn train(&self, output: &str, more: &[&str]) -> Output {
        self.train_with(output, more, &[])
    }

    /// [`train`](Self::train) with variables set.
    pub(crate) fn train_with(
        &self,
        output: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Output {
        let (recipe, model) = (self.arg("recipe.toml"), self.arg("model"));
        let (data, output) = (self.arg("rows.jsonl"), self.arg(output));
        let mut args =
            vec!["train", &recipe, "--model", &model, "--data", &data, "--output", &output];
        args.extend(more);
        run_with(&args, variables)
    }

    /// Starts [`train`](Self::train) in the background, its messages in `output.log`.
    pub(crate) fn start(&self, output: &str, more: &[&str]) -> Child {
        let log = fs::File::create(self.path(&format!("{output}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_qlora-train"));
        command.args(["train", &self.arg("recipe.toml"), "--model", &self.arg("model")]);
        command.args(["--data", &self.arg("rows.jsonl"), "--output", &self.arg(output)]).args(more);
        command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// The rows of `metrics.jsonl`.
    pub(crate) fn metrics(&self, output: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(output).join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The losses of all steps, bit for bit.
    pub(crate) fn losses(&self, output: &str) -> Vec<u64> {
        let rows = self.metrics(output);
        rows.iter()
            .filter_map(|row| row.get("loss"))
            .map(|x| x.as_f64().unwrap().to_bits())
            .collect()
    }
}

/// Rows of a task that a tiny model can learn.
pub(crate) fn rows(count: usize) -> String {
    let row = |i: usize| {
        let (word, letter) = (["red", "blue", "green"][i % 3], char::from(b'a' + (i % 26) as u8));
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{letter} {word}\"}}, \
             {{\"role\": \"assistant\", \"content\": \"is {word}\"}}]}}\n"
        )
    };
    (0..count).map(row).collect()
}

/// Runs the binary, a model on the processor unless the arguments name a device.
pub(crate) fn run(args: &[&str]) -> Output {
    run_with(args, &[])
}

/// [`run`] with variables set.
pub(crate) fn run_with(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qlora-train"));
    command.args(args).envs(variables.iter().copied());
    let runs_model = args.iter().any(|arg| ["train", "generate", "eval"].contains(arg));
    if runs_model && !args.contains(&"--device") {
        command.args(["--device", "cpu"]);
    }
    command.output().unwrap()
}

/// The standard output of a run that must succeed.
pub(crate) fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one error line of a run that must fail with `code`.
pub(crate) fn error(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    errors[0].to_owned()
}
