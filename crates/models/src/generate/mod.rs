//! Text generation: a batch of prompts over a key-value cache.

mod cache;
mod sample;

use std::ops::ControlFlow;

use autograd::{Precision, Tape};
use kernels::Backend;

pub(crate) use cache::LayerCache;
pub use sample::Sampling;

use crate::decoder::{Adapter, Decoder};
use crate::{Error, Result};
use cache::KvCache;
use sample::Sampler;

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most tokens to add to each prompt.
    pub max_new_tokens: usize,
    /// How to choose among the logits.
    pub sampling: Sampling,
    /// Tokens that end a text; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Element types of the forward pass.
    pub precision: Precision,
}

/// Continues every prompt, all together; `on_token(prompt index, token)` hears each token as it is
/// drawn, and may end all texts there. A text ends at a stop token, after `max_new_tokens`, or at the model's context length.
/// What one prompt yields does not depend on the others, up to rounding and but for dynamic rotary
/// scaling, whose frequencies follow the longest text of the batch (as in transformers).
pub fn generate<K: Backend>(
    decoder: &Decoder<K>,
    adapter: Option<&Adapter<K>>,
    prompts: &[Vec<u32>],
    options: &GenerateOptions,
    mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>> {
    let context = decoder.config().context_limit();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if prompts.iter().any(Vec::is_empty) {
        return Err(Error::Input("a prompt has no tokens".to_owned()));
    }
    let capacity = longest.saturating_add(options.max_new_tokens).min(context);
    let mut cache = KvCache::new(decoder, prompts.len(), capacity, options.precision)?;
    let mut sampler = Sampler::new(options.sampling);
    let mut texts = vec![Vec::new(); prompts.len()];
    let mut active: Vec<usize> = (0..prompts.len()).collect();
    let mut pending: Vec<Vec<u32>> = prompts.to_vec();
    for _ in 0..options.max_new_tokens {
        if active.is_empty() {
            break;
        }
        let logits = forward(decoder, adapter, &mut cache, &active, &pending, options.precision)?;
        let vocab = decoder.config().vocab_size;
        let mut still = Vec::with_capacity(active.len());
        for (&prompt, logits) in active.iter().zip(logits.chunks_exact(vocab)) {
            let token = sampler.draw(logits, prompt as u64, texts[prompt].len() as u64);
            if options.stop_tokens.contains(&token) {
                continue;
            }
            texts[prompt].push(token);
            if on_token(prompt, token).is_break() {
                return Ok(texts);
            }
            if prompts[prompt].len() + texts[prompt].len() < context {
                pending[prompt] = vec![token];
                still.push(prompt);
            }
        }
        active = still;
    }
    Ok(texts)
}

/// Feeds the pending tokens of the active prompts; the logits after each, one row a prompt.
fn forward<K: Backend>(
    decoder: &Decoder<K>,
    adapter: Option<&Adapter<K>>,
    cache: &mut KvCache<K>,
    active: &[usize],
    pending: &[Vec<u32>],
    precision: Precision,
) -> Result<Vec<f32>> {
    let ids: Vec<u32> = active.iter().flat_map(|&i| pending[i].iter().copied()).collect();
    let news: Vec<usize> = active.iter().map(|&i| pending[i].len()).collect();
    let spans = cache.extend(active, &news);
    let inputs = decoder.inputs_at(&ids, &spans, cache.rows())?;
    let mut tape = Tape::inference(decoder.backend(), precision);
    let hidden = decoder.hidden_cached(&mut tape, &inputs, adapter, cache.layers())?;
    let mut end = 0u32;
    let last: Vec<u32> = news
        .iter()
        .map(|&n| {
            end += n as u32;
            end - 1
        })
        .collect();
    decoder.logits(&mut tape, &hidden, &last)
}
