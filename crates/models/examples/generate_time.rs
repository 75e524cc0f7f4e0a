//! Times the processing of a prompt and the decoding after it, in NF4 on the CPU; prints a line of JSON with
//! tokens a second: `generate_time MODEL bf16|f32 PROMPT_TOKENS NEW_TOKENS`

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use autograd::Precision;
use kernels::Cpu;
use models::decoder::{BaseFormat, Decoder, LoadOptions};
use models::generate::{GenerateOptions, Sampling, generate};
use models::weights::Checkpoint;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, precision, prompt_tokens, new_tokens] = args.as_slice() else {
        return Err("usage: generate_time MODEL bf16|f32 PROMPT_TOKENS NEW_TOKENS".into());
    };
    let checkpoint = Checkpoint::open(Path::new(model))?;
    let format = BaseFormat::Quantized(nf4::QuantConfig::default());
    let options = LoadOptions { format, narrow: false, progress: &|_, _| () };
    let decoder = Decoder::load(&Cpu::new(), checkpoint.source(), checkpoint.config(), &options)?;
    let options = GenerateOptions {
        max_new_tokens: new_tokens.parse()?,
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        stop_tokens: Vec::new(),
        precision: if precision == "bf16" { Precision::BF16 } else { Precision::F32 },
    };
    let vocab = checkpoint.config().vocab_size as u32;
    let prompt: Vec<u32> =
        (0..prompt_tokens.parse()?).map(|i: u32| 100 + 37 * i % (vocab - 100)).collect();

    let run = |new: usize| -> Result<Vec<f64>, Box<dyn Error>> {
        let (start, mut times) = (Instant::now(), Vec::new());
        let options = GenerateOptions { max_new_tokens: new, ..options.clone() };
        generate(&decoder, None, std::slice::from_ref(&prompt), &options, |_, _| {
            times.push(start.elapsed().as_secs_f64());
            ControlFlow::Continue(())
        })?;
        Ok(times)
    };
    run(2)?; // allocates and touches what the timed run reuses
    let times = run(options.max_new_tokens)?;
    let [first, .., last] = times[..] else { return Err("NEW_TOKENS must be 2 or more".into()) };
    let prompt_rate = prompt.len() as f64 / first;
    let decode_rate = (times.len() - 1) as f64 / (last - first);
    println!("{{\"prompt_tokens_per_s\": {prompt_rate}, \"decode_tokens_per_s\": {decode_rate}}}");
    Ok(())
}
