//! `qlora-train autotune`: measures on the card how to multiply by a model's 4-bit weights.

use std::path::PathBuf;

use anyhow::Result;

use crate::device::Device;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model whose shapes are measured: checkpoint directory or GGUF file.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Most tokens of a pass.
    #[arg(long, value_name = "N", default_value_t = 8192)]
    max_tokens: usize,
    /// Try cuBLASLt, too (libcublasLt.so.12). It adds in an order of its own, so that results of runs then differ a
    /// little from those without it.
    #[arg(long)]
    cublas: bool,
    /// The card: auto, cuda or cuda:N.
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: Device,
}

/// Runs the command.
#[cfg(not(feature = "cuda"))]
pub fn run(_: &Args) -> Result<()> {
    let message = "this binary was built without CUDA: there is nothing to choose on a processor";
    Err(crate::UsageError(message.into()).into())
}

/// Runs the command.
#[cfg(feature = "cuda")]
pub fn run(args: &Args) -> Result<()> {
    use std::io::Write;

    let number = match args.device {
        Device::Auto => 0,
        Device::Cuda(number) => number,
        Device::Cpu => {
            let message = "--device cpu: there is nothing to choose on a processor";
            return Err(crate::UsageError(message.into()).into());
        }
    };
    if args.cublas && !kernels::Cuda::has_cublas() {
        anyhow::bail!(
            "--cublas: libcublasLt.so.12 is not there; install it (a part of the CUDA toolkit, or pip install \
             nvidia-cublas-cu12) and name its folder in LD_LIBRARY_PATH"
        );
    }
    let checkpoint = models::Checkpoint::open(&args.model)?;
    let cuda = kernels::Cuda::new(number)?;
    let card = cuda.info()?.name;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{card}, milliseconds")?;
    writeln!(
        out,
        "{:>14} {:>9} {:>7} {:>9} {:>12} {:>9}",
        "weight", "", "tokens", "fused", "dequantized", "cublas"
    )?;
    let mut written = Ok(());
    let routes = kernels::Routes::measure(
        &cuda,
        &shapes(checkpoint.config()),
        &row_counts(args.max_tokens),
        args.cublas,
        |timing| {
            let kernels::RouteEntry { n, k, backward, rows, .. } = timing.entry;
            let direction = if backward { "backward" } else { "forward" };
            let [fused, dequantized] = [timing.fused, timing.dequantized].map(|s| 1e3 * s);
            let cublas = timing.cublas.map_or_else(String::new, |s| format!("{:.3}", 1e3 * s));
            let line = writeln!(
                out,
                "{:>14} {direction:>9} {rows:>7} {fused:>9.3} {dequantized:>12.3} {cublas:>9}",
                format!("{n} x {k}")
            );
            if written.is_ok() {
                written = line;
            }
        },
    )?;
    written?;
    let path = crate::tuning::write(&card, routes)?;
    writeln!(out, "kept in {}", path.display())?;
    Ok(())
}

/// The different shapes of a model's linears.
#[cfg(feature = "cuda")]
fn shapes(config: &models::ModelConfig) -> Vec<(usize, usize)> {
    let mut shapes: Vec<(usize, usize)> =
        config.linears().iter().map(|linear| (linear.out_features, linear.in_features)).collect();
    shapes.sort_unstable();
    shapes.dedup();
    shapes
}

/// Powers of two from 16, under which another kernel is at work, to `most`.
#[cfg(feature = "cuda")]
fn row_counts(most: usize) -> Vec<usize> {
    std::iter::successors(Some(16_usize), |rows| rows.checked_mul(2))
        .take_while(|rows| *rows <= most)
        .collect()
}
