//! Writes the f32 logits of a sequence, for comparison with other programs:
//! `logits MODEL ADAPTER|- IDS(comma-separated) OUT`; OUT is raw little-endian f32 `[tokens, vocab]`.

use std::error::Error;
use std::path::Path;

use autograd::{Precision, Tape};
use kernels::Cpu;
use models::decoder::{Adapter, BaseFormat, Decoder, ForwardOptions, LoadOptions};
use models::weights::Checkpoint;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, ids, out] = args.as_slice() else {
        return Err("usage: logits MODEL ADAPTER|- IDS OUT".into());
    };
    let ids: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let options = LoadOptions { format: BaseFormat::Dense, narrow: false, progress: &|_, _| () };
    let decoder = Decoder::load(&Cpu::new(), checkpoint.source(), checkpoint.config(), &options)?;
    let adapter = match adapter.as_str() {
        "-" => None,
        dir => Some(Adapter::load(&decoder, Path::new(dir))?),
    };
    let inputs = decoder.inputs(&ids, &[ids.len()])?;
    let mut tape = Tape::inference(decoder.backend(), Precision::F32);
    let options = ForwardOptions::default();
    let hidden = decoder.hidden(&mut tape, &inputs, adapter.as_ref(), options)?;
    let rows: Vec<u32> = (0..ids.len() as u32).collect();
    let logits = decoder.logits(&mut tape, &hidden, &rows)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(out, bytes)?;
    Ok(())
}
