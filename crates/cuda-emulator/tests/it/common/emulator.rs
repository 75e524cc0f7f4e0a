//! Running a test on the emulated driver. A process loads one driver for good, so the test binary
//! runs itself again, for just the one test, with the emulator first on the library path.

use std::{
    cell::Cell,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::compile::{target, temporary_name};

/// Set in the process that runs the body.
const INSIDE: &str = "TEST_ON_EMULATED_DRIVER";

/// Time for one run, on a busy machine.
const LONGEST: Duration = Duration::from_secs(100);

/// Environment variables of the emulator, without their prefix: `("SEED", "1")`.
pub(crate) type Setting<'a> = (&'a str, &'a str);

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code: 0 if the body returned, 101 if it failed, none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it printed.
    pub(crate) output: String,
    /// The driver's report; null if it wrote none.
    pub(crate) report: Value,
}

impl Run {
    /// The findings of the report.
    pub(crate) fn findings(&self) -> &[Value] {
        self.report["findings"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The body returned.
    #[track_caller]
    pub(crate) fn passed(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.output);
        self
    }

    /// The checks that found something.
    #[track_caller]
    pub(crate) fn names(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().expect("a report");
        findings.iter().filter_map(|finding| finding["check"].as_str()).collect()
    }

    /// Exactly these checks found something, in this order.
    #[track_caller]
    pub(crate) fn found(&self, checks: &[&str]) -> &Self {
        assert_eq!(self.names(), checks, "{}", self.output);
        self
    }

    /// Some message has this text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> &Self {
        assert!(self.output.contains(text), "no {text:?} in\n{}", self.output);
        self
    }

    /// Fails the test unless the body returned and nothing was found.
    pub(crate) fn assert_clean(&self) {
        self.passed();
        assert!(self.report.is_object(), "no report\n{}", self.output);
        assert!(self.findings().is_empty(), "{:#}\n{}", self.report["findings"], self.output);
    }
}

/// Runs `body` on the emulated driver, once with each list of settings. Once in a test, which must do
/// nothing before.
pub(crate) fn on_emulator(settings: &[&[Setting]], body: impl FnOnce()) -> Vec<Run> {
    if env::var_os(INSIDE).is_some() {
        body();
        process::exit(0);
    }
    thread_local!(static USED: Cell<bool> = const { Cell::new(false) });
    assert!(!USED.replace(true), "once in a test: the process inside would run the first body");
    let thread = thread::current();
    let test = thread.name().filter(|name| *name != "main").expect("called from a test's thread");
    settings.iter().map(|settings| run(test, settings)).collect()
}

fn run(test: &str, settings: &[Setting]) -> Run {
    let report = temporary_name(&target().join("cuda-emulator-report"));
    let before = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let libraries = [library_folder()].into_iter().chain(env::split_paths(&before));
    let mut command = Command::new(env::current_exe().expect("known on Linux"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("LD_LIBRARY_PATH", env::join_paths(libraries).expect("no path holds a colon"))
        .env("CUDA_EMULATOR_REPORT", &report)
        .envs(settings.iter().map(|(name, value)| (format!("CUDA_EMULATOR_{name}"), value)));
    let printed = temporary_name(&target().join("cuda-emulator-output"));
    let file = File::create(&printed).expect("target is writable");
    command.stdout(file.try_clone().expect("one more handle")).stderr(file);
    let code = finish(&mut command.spawn().expect("this program starts"));
    let text = String::from_utf8_lossy(&take(&printed)).into_owned();
    let report = serde_json::from_slice(&take(&report)).unwrap_or_default();
    Run { code, output: format!("{test} with {settings:?}:\n{text}"), report }
}

/// The exit code of the process, which must end in time.
fn finish(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < LONGEST {
        match child.try_wait().expect("it is a child of this process") {
            Some(status) => return status.code(),
            None => thread::sleep(Duration::from_millis(2)),
        }
    }
    child.kill().expect("it is a child of this process");
    child.wait().expect("it is a child of this process");
    panic!("still running after {LONGEST:?}");
}

/// The bytes of a file, which goes away; none if it never was.
fn take(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    bytes
}

/// A folder that holds the emulator under the names of the driver library and of cuBLASLt.
fn library_folder() -> PathBuf {
    let library = [target().join("deps"), target()]
        .map(|folder| folder.join("libcuda_emulator.so"))
        .into_iter()
        .find(|path| path.is_file())
        .expect("cargo builds the library with its tests");
    let folder = target().join("cuda-emulator-test");
    fs::create_dir_all(&folder).expect("target is writable");
    for name in ["libcuda.so", "libcuda.so.1", "libcublasLt.so"] {
        link(&library, &folder.join(name));
    }
    folder
}

/// Other tests may be at it too: the link is there before and after.
fn link(library: &Path, name: &Path) {
    if fs::read_link(name).is_ok_and(|to| to == library) {
        return;
    }
    let temporary = temporary_name(name);
    std::os::unix::fs::symlink(library, &temporary).expect("target is writable");
    fs::rename(&temporary, name).expect("target is writable");
}
