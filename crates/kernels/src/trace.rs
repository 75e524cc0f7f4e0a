//! Named spans of a run for a profiler.
//!
//! With the environment's `QLORA_NVTX=1` they are NVTX ranges, which Nsight Systems shows beside the kernels
//! (`scripts/profile-nsys.sh`); without it, or without the `cuda` feature or `libnvToolsExt`, they are nothing.

/// A span that ends when it is dropped.
#[derive(Debug)]
#[must_use = "the span ends at once"]
pub struct Span {
    #[cfg(feature = "cuda")]
    _range: Option<cudarc::nvtx::Range>,
}

/// Begins a span; the name is made only where it is seen.
pub fn span<S: Into<String>>(name: impl FnOnce() -> S) -> Span {
    #[cfg(feature = "cuda")]
    return Span { _range: nvtx().then(|| cudarc::nvtx::scoped_range(name().into())) };
    #[cfg(not(feature = "cuda"))]
    {
        let _ = name;
        Span {}
    }
}

#[cfg(feature = "cuda")]
fn nvtx() -> bool {
    static WANTED: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        std::env::var_os("QLORA_NVTX").is_some_and(|value| value == "1") && crate::cuda::has_nvtx()
    });
    *WANTED
}
