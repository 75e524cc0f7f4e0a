//! Sentencepiece BPE with byte fallback out of a GGUF file (`tokenizer.ggml.model` = `llama`).

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    SpecialToken,
    from_gguf::{Recipe, Vocabulary, token_type},
};
use crate::{Error, Result, gguf::GgufFile};

/// Sentencepiece's sign for a space.
const SPACE: &str = "\u{2581}";

/// Longest token that is taken apart; real vocabularies stay below 100 bytes.
const MAX_TOKEN_BYTES: usize = 256;

/// The layout of Llama 2's `tokenizer.json`: the space in front of a text is put there by the normalizer.
pub(super) fn recipe(
    file: &GgufFile,
    vocabulary: &Vocabulary,
    unk: Option<&SpecialToken>,
) -> Result<Recipe> {
    let prefix_space = file.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix_space {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unk.map(|token| &token.content),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": true,
        "ignore_merges": false,
        "vocab": vocabulary.ids(file)?,
        "merges": merges(file, vocabulary)?,
    });
    Ok(Recipe {
        model,
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        add_bos_token: true,
    })
}

/// One way to put a token together.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f64,
}

/// The merges that the scores imply: a token of a higher score is put together first, out of any two tokens.
///
/// Sentencepiece keeps no merges. This is how transformers derives them (`generate_merges`), less those that would
/// make control or byte tokens.
fn merges<'a>(file: &GgufFile, vocabulary: &Vocabulary<'a>) -> Result<Vec<[&'a str; 2]>> {
    let key = "tokenizer.ggml.scores";
    let scores = file.required(key, file.floats(key)?)?;
    if scores.len() != vocabulary.tokens.len() || scores.iter().any(|score| score.is_nan()) {
        let message =
            format!("must have one number for each of the {} tokens", vocabulary.tokens.len());
        return Err(Error::field(file.path(), key, message));
    }
    let made = |kind: i64| matches!(kind, token_type::NORMAL | token_type::USER_DEFINED);
    let pieces = || {
        let entries = vocabulary.tokens.iter().zip(&vocabulary.types).enumerate();
        entries.filter(move |(_, (_, kind))| made(**kind)).map(|(id, (token, _))| (id, *token))
    };
    let ids: HashMap<&str, usize> = pieces().map(|(id, token)| (token, id)).collect();
    let mut merges = Vec::new();
    for (id, token) in pieces() {
        if token.len() > MAX_TOKEN_BYTES {
            let message = format!(
                "token {id} has {} bytes; at most {MAX_TOKEN_BYTES} are possible",
                token.len()
            );
            return Err(Error::field(file.path(), "tokenizer.ggml.tokens", message));
        }
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut made: Vec<_> = splits
            .filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?, left, right)))
            .collect();
        made.sort_unstable_by_key(|&(left, right, ..)| (left, right));
        let score = scores[id];
        merges.extend(made.into_iter().map(|(_, _, left, right)| Merge { left, right, score }));
    }
    let chars = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then_with(|| chars(b.left).cmp(&chars(a.left)))
    });
    Ok(merges.into_iter().map(|merge| [merge.left, merge.right]).collect())
}
