//! Runs a test again in a process of its own, for what the emulated driver takes from the environment and
//! what it reports of a process.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Names the file that a child may write its results to.
const RESULTS: &str = "KERNELS_TEST_RESULTS";

/// Whether the driver is the emulated one, which the test script says by this variable.
pub(crate) fn emulated() -> bool {
    let emulated = env::var_os("CUDA_EMULATOR_EXIT_CODE").is_some();
    if !emulated {
        eprintln!("skipped: needs the emulated driver, see scripts/test.sh");
    }
    emulated
}

/// In a process that [`run`] started, where its results go.
pub(crate) fn results() -> Option<PathBuf> {
    env::var_os(RESULTS).map(PathBuf::from)
}

/// What a child left.
pub(crate) struct Child {
    /// What it wrote to [`results`].
    pub(crate) results: String,
    /// The emulated driver's report of it.
    pub(crate) report: Value,
}

/// Runs the test `name` in another process, with variables set.
#[track_caller]
pub(crate) fn run(name: &str, variables: &[(&str, &str)]) -> Child {
    let folder = tempfile::tempdir().unwrap();
    let [results, report] = ["results", "report"].map(|name| folder.path().join(name));
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1"])
        .envs(variables.iter().copied())
        .env(RESULTS, &results)
        .env("CUDA_EMULATOR_REPORT", &report)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report: {e}\n{text}"));
    Child {
        results: fs::read_to_string(&results).unwrap_or_default(),
        report: serde_json::from_str(&report).unwrap(),
    }
}
