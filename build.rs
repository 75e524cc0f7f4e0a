//! Build script of `crates/kernels`: with the `cuda` feature it compiles `kernels/` with nvcc and
//! binds `kernels/include`; without it there is nothing to do.

fn main() {
    println!("cargo::rerun-if-changed=../../build.rs");
    println!("cargo::rerun-if-changed=../../kernels");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        println!(
            "cargo::error=the `cuda` feature has no kernels yet: build without it, the CPU backend needs no feature"
        );
    }
}
