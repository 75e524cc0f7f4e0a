//! `qlora-train device`: what this binary can run on.

use std::io::Write;

use anyhow::Result;
use kernels::CpuLevel;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_: &Args) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let threads = rayon::current_num_threads();
    let level = CpuLevel::of_process()?;
    let has: Vec<_> = CpuLevel::supported().iter().map(|level| level.name()).collect();
    writeln!(
        out,
        "cpu     {threads} threads, level {level} (this processor has {})",
        has.join(", ")
    )?;
    cuda(&mut out)
}

#[cfg(feature = "cuda")]
fn cuda(out: &mut impl Write) -> Result<()> {
    let count = match kernels::Cuda::count() {
        Ok(count) => count,
        Err(error) => {
            writeln!(out, "cuda    none: {error}")?;
            return Ok(());
        }
    };
    for number in 0..count {
        match kernels::Cuda::new(number).and_then(|cuda| cuda.info()) {
            Ok(info) => {
                let (major, minor) = info.compute_capability;
                let [memory, free] =
                    [info.memory, info.free].map(|bytes| bytes as f64 / (1 << 30) as f64);
                writeln!(
                    out,
                    "cuda:{number}  {}, compute capability {major}.{minor}, {} multiprocessors, \
                     {memory:.1} GiB, {free:.1} free",
                    info.name, info.multiprocessors
                )?;
            }
            Err(error) => writeln!(out, "cuda:{number}  cannot be used: {error}")?,
        }
    }
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn cuda(out: &mut impl Write) -> Result<()> {
    writeln!(
        out,
        "cuda    not in this binary: build it with `cargo build --release --features cuda`"
    )?;
    Ok(())
}
