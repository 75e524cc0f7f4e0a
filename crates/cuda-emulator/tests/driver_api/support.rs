//! Running a test on the emulated driver. A process loads one driver for good, so the test binary
//! runs itself again for the one test, with the emulator first on the library path.

use std::{
    env, fs,
    path::PathBuf,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use cudarc::{
    driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError},
    nvrtc::Ptx,
};
use serde_json::Value;

const INSIDE: &str = "TEST_ON_EMULATED_DRIVER";

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code; a test that fails has 101.
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) report: Value,
}

impl Run {
    /// The test passed inside.
    #[track_caller]
    pub(crate) fn passed(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.output);
        self
    }

    /// The checks that found something.
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
}

/// Runs `body` on the emulated driver with the settings, given without their prefix. A test calls
/// this first, and once; `each` looks at the result for each list of settings.
pub(crate) fn on_emulator(settings: &[&[(&str, &str)]], body: impl FnOnce()) -> Vec<Run> {
    if env::var_os(INSIDE).is_some() {
        body();
        process::exit(0);
    }
    let thread = thread::current();
    let test = thread.name().expect("called from a test's thread");
    settings.iter().map(|settings| run(test, settings)).collect()
}

fn run(test: &str, settings: &[(&str, &str)]) -> Run {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let folder = library_folder();
    let number = RUNS.fetch_add(1, Ordering::Relaxed);
    let report = folder.join(format!("report-{}-{number}.json", process::id()));
    let output = Command::new(env::current_exe().expect("known"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("LD_LIBRARY_PATH", &folder)
        .env("CUDA_EMULATOR_REPORT", &report)
        .envs(settings.iter().map(|(name, value)| (format!("CUDA_EMULATOR_{name}"), value)))
        .output()
        .expect("this program starts");
    let text = [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s).into_owned());
    let written = fs::read_to_string(&report).unwrap_or_default();
    let _ = fs::remove_file(&report);
    Run {
        code: output.status.code(),
        output: format!("{test} with {settings:?}:\n{}", text.concat()),
        report: serde_json::from_str(&written).unwrap_or_default(),
    }
}

/// A folder of this process that holds the emulator under the driver's name.
fn library_folder() -> PathBuf {
    let executable = env::current_exe().expect("known");
    let library = executable.ancestors().skip(1).take(2).map(|f| f.join("libcuda_emulator.so"));
    let library = library.into_iter().find(|path| path.is_file()).expect("built with the tests");
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{}", process::id()));
    fs::create_dir_all(&folder).expect("target is writable");
    let _ = std::os::unix::fs::symlink(library, folder.join("libcuda.so")); // another test made it
    folder
}

/// A context with a stream of its own that does not keep order by itself, and the test's kernels.
pub(crate) struct Session {
    pub(crate) context: std::sync::Arc<CudaContext>,
    pub(crate) stream: std::sync::Arc<CudaStream>,
    pub(crate) module: std::sync::Arc<CudaModule>,
}

impl Session {
    pub(crate) fn new() -> Result<Self, DriverError> {
        let context = CudaContext::new(0)?;
        // SAFETY: the tests order their streams themselves, or mean not to.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let module = context.load_module(Ptx::from_src(KERNELS))?;
        Ok(Self { context, stream, module })
    }

    pub(crate) fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).expect("in the module")
    }
}

/// `add`: x[i] += value for i < n. `outside`: writes 4 bytes at x + 4 n. `assert`: traps.
/// `bounded` has a launch bound of 64; `shared` 1 KiB of static shared memory.
pub(crate) const KERNELS: &str = r"
.version 8.0
.target sm_80
.address_size 64

.global .align 4 .u32 counter = 7;

.visible .entry add(.param .u64 x, .param .u32 n, .param .f32 value)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [n];
    ld.param.f32 %f1, [value];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r5, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.f32 %f2, [%rd4];
    add.f32 %f3, %f2, %f1;
    st.global.f32 [%rd4], %f3;
DONE:
    ret;
}

.visible .entry outside(.param .u64 x, .param .u32 n)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [x];
    ld.param.u32 %r1, [n];
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd4, %rd2, %rd3;
    st.global.u32 [%rd4], %r1;
    ret;
}

.visible .entry fail()
{
    trap;
    ret;
}

.visible .entry bounded()
.maxntid 64, 1, 1
{
    ret;
}

.visible .entry shared()
{
    .shared .align 4 .b8 buffer[1024];
    ret;
}
";
