//! Runs a test again in a process of its own, for what a process takes from the environment and what the
//! emulated driver reports of it.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// Names the file that a child may write its results to.
const RESULTS: &str = "KERNELS_TEST_RESULTS";

/// In a process that this module started, where its results go.
pub(crate) fn results() -> Option<PathBuf> {
    env::var_os(RESULTS).map(PathBuf::from)
}

/// Runs tests in another process, with variables set; `filters` are those of the test program. What a
/// test wrote to [`results`].
#[track_caller]
pub(crate) fn results_of(filters: &[&str], variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results");
    let output = Command::new(env::current_exe().unwrap())
        .args(filters)
        .envs(variables.iter().copied())
        .env(RESULTS, &results)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains(" 0 passed"), "{filters:?} name no test: {text}");
    fs::read_to_string(&results).unwrap_or_default()
}

#[cfg(feature = "cuda")]
pub(crate) use self::emulated::{emulated, run};

#[cfg(feature = "cuda")]
mod emulated {
    use serde_json::Value;

    use super::{env, fs, results_of};

    /// Whether the driver is the emulated one, which the test script says by this variable.
    pub(crate) fn emulated() -> bool {
        let emulated = env::var_os("CUDA_EMULATOR_EXIT_CODE").is_some();
        if !emulated {
            eprintln!("skipped: needs the emulated driver, see scripts/test.sh");
        }
        emulated
    }

    /// What a child left.
    pub(crate) struct Child {
        /// What it wrote to its results.
        pub(crate) results: String,
        /// The emulated driver's report of it.
        pub(crate) report: Value,
    }

    /// Runs the test `name` in another process, with variables set.
    #[track_caller]
    pub(crate) fn run(name: &str, variables: &[(&str, &str)]) -> Child {
        let folder = tempfile::tempdir().unwrap();
        let report = folder.path().join("report");
        let to = ("CUDA_EMULATOR_REPORT", report.to_str().unwrap());
        let variables: Vec<_> = variables.iter().copied().chain([to]).collect();
        let results = results_of(&["--exact", name, "--test-threads=1"], &variables);
        let report = fs::read_to_string(&report).unwrap_or_else(|e| panic!("no report: {e}"));
        Child { results, report: serde_json::from_str(&report).unwrap() }
    }
}
