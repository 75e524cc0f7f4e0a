//! Generation over the key-value cache against running the whole text again for every token.

mod common;

use std::ops::ControlFlow;

use autograd::Precision;
use common::{Rows, adapter, load, logits};
use kernels::Cpu;
use models::decoder::{Adapter, BaseFormat, Decoder};
use models::generate::{GenerateOptions, Sampling, generate};

/// Well past the window of 8 tokens that the mistral fixture has.
const NEW_TOKENS: usize = 16;

/// The most likely token after `ids`, and how far the next one is behind.
fn next(decoder: &Decoder<Cpu>, lora: &Adapter<Cpu>, ids: &[u32]) -> (u32, f32) {
    let all = logits(decoder, Some(lora), &Rows::all_trained(vec![ids.to_vec()]));
    let last = &all[all.len() - decoder.config().vocab_size..];
    let mut order: Vec<usize> = (0..last.len()).collect();
    order.sort_by(|&a, &b| last[b].total_cmp(&last[a]));
    (order[0] as u32, last[order[0]] - last[order[1]])
}

#[test]
fn cached_generation_is_recomputed_generation() {
    let prompts = [vec![5, 17, 40, 9, 3], vec![8, 60, 2, 33, 21, 7, 50, 14, 29, 11, 4]];
    let options = GenerateOptions {
        max_new_tokens: NEW_TOKENS,
        sampling: Sampling::GREEDY,
        stop_tokens: Vec::new(),
        precision: Precision::F32,
    };
    for model in ["mistral", "qwen3"] {
        let decoder = load(model, BaseFormat::Dense);
        let lora = adapter(&decoder, &format!("{model}/adapter"));
        let texts =
            generate(&decoder, Some(&lora), &prompts, &options, |_, _| ControlFlow::Continue(()))
                .unwrap();
        for (prompt, text) in prompts.iter().zip(&texts) {
            assert_eq!(text.len(), NEW_TOKENS);
            let mut ids = prompt.clone();
            for &token in text {
                let (expected, ahead) = next(&decoder, &lora, &ids);
                assert!(ahead > 1e-4, "{model}: a tie, which rounding may decide");
                assert_eq!(token, expected, "{model} after {ids:?}");
                ids.push(token);
            }
        }
        assert_ne!(texts[0], texts[1]);
        let plain =
            generate(&decoder, None, &prompts, &options, |_, _| ControlFlow::Continue(())).unwrap();
        assert_ne!(texts, plain, "{model}: the adapter has a say");
    }
}
