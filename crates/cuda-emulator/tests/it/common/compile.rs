//! CUDA C++ to PTX.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// How a source is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flavour {
    /// As a release is.
    Optimised,
    /// With `-G`: no optimisation, every variable in local memory, other forms of opcodes.
    Debug,
}

impl Flavour {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Flavour::Optimised => &["-lineinfo"],
            Flavour::Debug => &["-G"],
        }
    }
}

/// The PTX of `tests/kernels/<name>.cu`, from the cache where nothing has changed.
pub(crate) fn ptx(name: &str, flavour: Flavour) -> String {
    let folder = kernels();
    let cached = target()
        .join("cuda-emulator-ptx")
        .join(format!("{name}-{flavour:?}-{:016x}.ptx", fingerprint(&folder, name, flavour)));
    if let Ok(text) = fs::read_to_string(&cached) {
        return text;
    }
    fs::create_dir_all(cached.parent().expect("it has one")).expect("target is writable");
    let temporary = temporary_name(&cached);
    let output = Command::new(nvcc())
        .args(["-ptx", "-arch=compute_80", "-std=c++17"])
        .args(flavour.flags())
        .arg("-o")
        .arg(&temporary)
        .arg(folder.join(format!("{name}.cu")))
        .output()
        .expect("nvcc starts");
    assert!(output.status.success(), "nvcc: {}", String::from_utf8_lossy(&output.stderr));
    let text = for_old_drivers(&fs::read_to_string(&temporary).expect("nvcc wrote it"));
    fs::write(&temporary, &text).expect("target is writable");
    fs::rename(&temporary, &cached).expect("target is writable"); // complete or not there
    text
}

/// nvcc writes the newest PTX version, which only the newest drivers load; the code needs no more
/// than this one, which has the pragma `used_bytes_mask`.
const VERSION: &str = ".version 8.3";

fn for_old_drivers(text: &str) -> String {
    text.lines()
        .map(|line| if line.starts_with(".version ") { VERSION } else { line })
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The text of `tests/kernels/<name>.cu`.
pub(crate) fn source(name: &str) -> String {
    fs::read_to_string(kernels().join(format!("{name}.cu"))).expect("the source is there")
}

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

/// `target/<profile>`.
pub(crate) fn target() -> PathBuf {
    let executable = env::current_exe().expect("known on Linux"); // target/<profile>/deps/it-<hash>
    executable.ancestors().nth(2).expect("a test binary lies in deps").to_path_buf()
}

/// A name beside `path` that no other process or thread uses.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let unique = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_extension(format!("{}-{}.tmp", unique.0, unique.1))
}

fn fingerprint(folder: &Path, name: &str, flavour: Flavour) -> u64 {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("tests/kernels is there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cuh"))
        .collect();
    files.sort();
    files.push(folder.join(format!("{name}.cu")));
    let mut hasher = DefaultHasher::new();
    (flavour, nvcc(), VERSION).hash(&mut hasher);
    for file in files {
        fs::read(file).expect("readable").hash(&mut hasher);
    }
    hasher.finish()
}

/// From `CUDA_HOME`, `PATH`, or where `scripts/setup-cuda.sh` puts it.
fn nvcc() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let home = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    home.into_iter()
        .chain(env::split_paths(&path))
        .chain([repository.join(".cuda/toolkit/nvidia/cu13/bin")])
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.is_file())
        .expect("nvcc is in neither CUDA_HOME nor PATH nor .cuda/; run scripts/setup-cuda.sh")
}
