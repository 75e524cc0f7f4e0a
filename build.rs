//! Build script of `crates/kernels`. With the `cuda` feature it compiles `kernels/*.cu` with nvcc, to
//! machine code for each supported architecture and to PTX for the others, and binds
//! `kernels/include/params.h`. In any case it says with `cfg(amx)` whether the target may have the matrix
//! unit of newer Xeons.

fn main() {
    println!("cargo::rerun-if-changed=../../build.rs");
    println!("cargo::rustc-check-cfg=cfg(amx)");
    let target = |what| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ARCH") == "x86_64" && target("OS") == "linux" {
        println!("cargo::rustc-cfg=amx");
    }
    #[cfg(feature = "cuda")]
    cuda::build();
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::env;
    use std::fmt::Write as _;
    use std::fs;
    use std::panic;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::thread;

    /// Architectures with machine code in the binary: A100, RTX 30, RTX 40, H100.
    const ARCHITECTURES: [u32; 4] = [80, 86, 89, 90];
    /// nvcc writes the newest PTX version, which only the newest drivers take; the kernels need no
    /// more than this one (drivers from 545 on).
    const PTX_VERSION: &str = ".version 8.3";
    /// What scripts/setup-cuda.sh installs.
    const LOCAL: &str = ".cuda/toolkit/nvidia/cu13";
    const HELP: &str = "the `cuda` feature needs nvcc (CUDA 12.4 or newer): run scripts/setup-cuda.sh, which fetches \
                        one into .cuda/, or put nvcc on PATH, or set CUDA_HOME; or build without the feature";
    const NO_LIBCLANG: &str = "the `cuda` feature needs libclang, which reads a C header: install it (Debian: libclang-dev, \
                               Fedora: clang-devel), or set LIBCLANG_PATH to its folder, or run scripts/setup-cuda.sh, \
                               which fetches one into .cuda/";

    pub(crate) fn build() {
        for variable in ["CUDA_HOME", "LIBCLANG_PATH", "PATH"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        println!("cargo::rerun-if-changed=../../kernels");
        if let Err(message) = try_build() {
            println!("cargo::error={message}");
        }
    }

    fn try_build() -> Result<(), String> {
        let root = Path::new("../..");
        let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
        let toolkit = Toolkit::find(root)?;
        find_libclang(&toolkit, root);
        bind(&root.join("kernels/include/params.h"), &out.join("params.rs"))?;
        let sources = sources(&root.join("kernels"))?;
        let compiled = thread::scope(|scope| {
            let tasks: Vec<_> = sources
                .iter()
                .map(|source| scope.spawn(|| compile(&toolkit, source, &out)))
                .collect();
            let wait = |task: thread::ScopedJoinHandle<'_, Result<(), String>>| {
                task.join().unwrap_or_else(|_| Err("a compiling thread panicked".into()))
            };
            tasks.into_iter().map(wait).collect::<Result<Vec<()>, String>>()
        });
        compiled?;
        list(&sources, &out)
    }

    struct Toolkit {
        nvcc: PathBuf,
        /// Where `lib/libclang.so` may be.
        root: Option<PathBuf>,
    }

    impl Toolkit {
        fn find(project: &Path) -> Result<Self, String> {
            let local = project.join(LOCAL);
            let named = env::var_os("CUDA_HOME").map(PathBuf::from);
            for root in named.into_iter().chain([local]) {
                let nvcc = root.join("bin/nvcc");
                if nvcc.is_file() {
                    return Ok(Self { nvcc, root: Some(root) });
                }
            }
            let nvcc = PathBuf::from("nvcc");
            match Command::new(&nvcc).arg("--version").output() {
                Ok(output) if output.status.success() => Ok(Self { nvcc, root: None }),
                _ => Err(HELP.into()),
            }
        }
    }

    fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut sources: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|e| e == "cu"))
            .collect();
        sources.sort();
        Ok(sources)
    }

    fn name(source: &Path) -> String {
        source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// `<name>.fatbin` with machine code alone, and `<name>.ptx`.
    fn compile(toolkit: &Toolkit, source: &Path, out: &Path) -> Result<(), String> {
        let name = name(source);
        let ptx = out.join(format!("{name}.ptx"));
        nvcc(toolkit, source, &["-ptx", "-arch=compute_80", "-lineinfo"], &ptx)?;
        let text = fs::read_to_string(&ptx).map_err(|e| format!("{}: {e}", ptx.display()))?;
        let lower = |line: &str| {
            let line = if line.starts_with(".version ") { PTX_VERSION } else { line };
            format!("{line}\n")
        };
        let text: String = text.lines().map(lower).collect();
        fs::write(&ptx, text).map_err(|e| format!("{}: {e}", ptx.display()))?;
        let codes: Vec<String> = ARCHITECTURES
            .iter()
            .map(|sm| format!("-gencode=arch=compute_{sm},code=sm_{sm}"))
            .collect();
        let flags: Vec<&str> =
            ["-fatbin", "-lineinfo"].into_iter().chain(codes.iter().map(String::as_str)).collect();
        nvcc(toolkit, source, &flags, &out.join(format!("{name}.fatbin")))
    }

    fn nvcc(toolkit: &Toolkit, source: &Path, flags: &[&str], to: &Path) -> Result<(), String> {
        let output = Command::new(&toolkit.nvcc)
            .args(["-std=c++17", "-O3"])
            .args(flags)
            .arg("-o")
            .arg(to)
            .arg(source)
            .output()
            .map_err(|e| format!("{}: {e}", toolkit.nvcc.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
        Err(format!("nvcc {}: {text}", source.display()))
    }

    /// Names the folder of a libclang beside the toolkit, if nobody named another.
    #[allow(unsafe_code)] // The environment is how bindgen is told.
    fn find_libclang(toolkit: &Toolkit, project: &Path) {
        let folders = toolkit.root.iter().cloned().chain([project.join(LOCAL)]);
        let found =
            folders.map(|root| root.join("lib")).find(|lib| lib.join("libclang.so").exists());
        if let (None, Some(folder)) = (env::var_os("LIBCLANG_PATH"), found) {
            // SAFETY: the build script has one thread at this point.
            unsafe { env::set_var("LIBCLANG_PATH", folder) };
        }
    }

    fn bind(header: &Path, to: &Path) -> Result<(), String> {
        // bindgen panics where it finds no libclang.
        panic::set_hook(Box::new(|_| ()));
        let version = panic::catch_unwind(bindgen::clang_version);
        let _ = panic::take_hook();
        version.map_err(|_| NO_LIBCLANG.to_owned())?;
        let bindings = bindgen::Builder::default()
            .header(header.to_string_lossy())
            .allowlist_file(".*params\\.h")
            .derive_copy(true)
            .derive_default(true)
            .layout_tests(true)
            .prepend_enum_name(false)
            .default_enum_style(bindgen::EnumVariation::Consts)
            .generate()
            .map_err(|e| format!("bindgen, {}: {e}", header.display()))?;
        bindings.write_to_file(to).map_err(|e| format!("{}: {e}", to.display()))
    }

    /// `modules.rs`: name, machine code and PTX of each file.
    fn list(sources: &[PathBuf], out: &Path) -> Result<(), String> {
        let mut text = String::from("&[\n");
        for source in sources {
            let name = name(source);
            let file = |kind: &str| out.join(format!("{name}.{kind}")).display().to_string();
            let _ = writeln!(
                text,
                "    Image {{ name: {name:?}, code: include_bytes!({:?}), ptx: include_str!({:?}) }},",
                file("fatbin"),
                file("ptx")
            );
        }
        text.push_str("]\n");
        fs::write(out.join("modules.rs"), text).map_err(|e| e.to_string())
    }
}
