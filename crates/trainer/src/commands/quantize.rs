//! `qlora-train quantize`: writes a 4-bit checkpoint.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use models::TensorSource;
use models::weights::{Checkpoint, write_quantized};
use nf4::{QuantConfig, QuantType};

use crate::progress::warn;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint directory or GGUF file.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// New directory, which transformers loads through bitsandbytes.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Code book.
    #[arg(long, value_enum, default_value_t = Kind::Nf4)]
    quant_type: Kind,
    /// Weights that share one absmax: a power of two, 32 to 4096.
    #[arg(long, default_value_t = QuantConfig::default().blocksize)]
    blocksize: usize,
    /// Keep absmax in f32.
    #[arg(long)]
    no_double_quant: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Nf4,
    Fp4,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let quant_type = match args.quant_type {
        Kind::Nf4 => QuantType::Nf4,
        Kind::Fp4 => QuantType::Fp4,
    };
    let quantization = QuantConfig::new(quant_type, args.blocksize, !args.no_double_quant)
        .map_err(|error| crate::UsageError(format!("--blocksize {}: {error}", args.blocksize)))?;
    let checkpoint = Checkpoint::open(&args.model)?;
    for warning in &checkpoint.config().warnings {
        warn(warning);
    }
    write_quantized(checkpoint.source(), checkpoint.config(), &quantization, &args.output)?;
    let size = |source: &dyn TensorSource| -> u64 {
        source.names().into_iter().filter_map(|name| source.info(name)).map(|info| info.bytes).sum()
    };
    let written = Checkpoint::open(&args.output)?;
    writeln!(
        std::io::stdout(),
        "{}: {:.1} MB of weights, from {:.1} MB",
        args.output.display(),
        size(written.source()) as f64 / 1e6,
        size(checkpoint.source()) as f64 / 1e6,
    )?;
    Ok(())
}
