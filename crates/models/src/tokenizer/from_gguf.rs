//! Rebuilding the tokenizer that a GGUF file describes.

use serde_json::{Map, Value, json};

use super::{SpecialToken, SpecialTokens, Tokenizer, byte_level, sentencepiece};
use crate::{Error, Result, gguf::GgufFile};

/// Token types of `enum llama_token_type` in llama.h.
pub(super) mod token_type {
    pub(crate) const NORMAL: i64 = 1;
    pub(crate) const CONTROL: i64 = 3;
    pub(crate) const USER_DEFINED: i64 = 4;
}

/// The vocabulary of a GGUF file.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    /// One [`token_type`] for each token; all normal when the file does not say.
    pub(super) types: Vec<i64>,
}

/// What the vocabulary's kind decides: the parts of `tokenizer.json`, and what holds when the file has no flag.
pub(super) struct Recipe {
    pub(super) model: Value,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) decoder: Value,
    pub(super) add_bos_token: bool,
}

impl Tokenizer {
    /// Rebuilds the tokenizer from the metadata of a GGUF file.
    ///
    /// # Errors
    /// [`Error::Field`] when the vocabulary is incomplete, or of a model or pre-tokenizer that is not known.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let vocabulary = Vocabulary::read(file)?;
        let size = vocabulary.tokens.len();
        let token = |kind| -> Result<Option<SpecialToken>> {
            let id = file.vocab_id(kind, size)?;
            Ok(id.map(|id| SpecialToken { content: vocabulary.tokens[id as usize].to_owned(), id }))
        };
        let special = SpecialTokens {
            bos: token("bos")?,
            eos: token("eos")?,
            pad: token("padding")?,
            unk: token("unknown")?,
        };
        let recipe = recipe(file, &vocabulary, &special)?;
        let add_bos = file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(recipe.add_bos_token);
        let add_eos = file.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let json = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": vocabulary.added_tokens(),
            "normalizer": recipe.normalizer,
            "pre_tokenizer": recipe.pre_tokenizer,
            "post_processor": template(
                special.bos.as_ref().filter(|_| add_bos),
                special.eos.as_ref().filter(|_| add_eos),
            ),
            "decoder": recipe.decoder,
            "model": recipe.model,
        });
        let inner = tokenizers::Tokenizer::from_bytes(json.to_string()).map_err(|e| {
            Error::format(file.path(), format!("its vocabulary does not make a tokenizer: {e}"))
        })?;
        let mut this = Self::new(inner, special, config(file)?)?;
        this.eos_token_ids = file.eos_token_ids(size)?;
        this.chat_template = file.string("tokenizer.chat_template")?.map(str::to_owned);
        Ok(this)
    }
}

fn recipe(file: &GgufFile, vocabulary: &Vocabulary, special: &SpecialTokens) -> Result<Recipe> {
    let key = "tokenizer.ggml.model";
    match file.required(key, file.string(key)?)? {
        "gpt2" => byte_level::recipe(file, vocabulary),
        "llama" => sentencepiece::recipe(file, vocabulary, special.unk.as_ref()),
        other => {
            let message = format!(
                "is `{other}`; supported are gpt2 (byte-level BPE) and llama (sentencepiece BPE)"
            );
            Err(Error::field(file.path(), key, message))
        }
    }
}

fn config(file: &GgufFile) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    if let Some(length) = file.context_length()? {
        config.insert("model_max_length".into(), length.into());
    }
    Ok(config)
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> Result<Self> {
        let key = "tokenizer.ggml.tokens";
        let tokens = file.required(key, file.strings(key)?)?;
        let key = "tokenizer.ggml.token_type";
        let types = file.ints(key)?.unwrap_or_else(|| vec![token_type::NORMAL; tokens.len()]);
        if types.len() != tokens.len() {
            let message = format!("has {} entries for {} tokens", types.len(), tokens.len());
            return Err(Error::field(file.path(), key, message));
        }
        Ok(Self { tokens, types })
    }

    /// Token to id; every token must be there once.
    pub(super) fn ids(&self, file: &GgufFile) -> Result<Map<String, Value>> {
        let mut ids = Map::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            if let Some(first) = ids.insert((*token).to_owned(), id.into()) {
                let message = format!("`{token}` is there twice, with ids {first} and {id}");
                return Err(Error::field(file.path(), "tokenizer.ggml.tokens", message));
            }
        }
        Ok(ids)
    }

    /// Control tokens as special ones; user-defined tokens are found whole in a text too, but are not special.
    fn added_tokens(&self) -> Vec<Value> {
        let entries = self.tokens.iter().zip(&self.types).enumerate();
        entries
            .filter(|(_, (token, kind))| {
                !token.is_empty()
                    && matches!(**kind, token_type::CONTROL | token_type::USER_DEFINED)
            })
            .map(|(id, (token, kind))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind == token_type::CONTROL,
                })
            })
            .collect()
    }
}

/// The post-processor that adds these tokens.
fn template(bos: Option<&SpecialToken>, eos: Option<&SpecialToken>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: &SpecialToken, type_id: u32| json!({"SpecialToken": {"id": token.content, "type_id": type_id}});
    let sequence = |name: &str, type_id: u32| {
        let mut pieces: Vec<_> = bos.map(|token| special(token, type_id)).into_iter().collect();
        pieces.push(json!({"Sequence": {"id": name, "type_id": type_id}}));
        pieces.extend(eos.map(|token| special(token, type_id)));
        pieces
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|token| {
            let entry = json!({"id": token.content, "ids": [token.id], "tokens": [token.content]});
            (token.content.clone(), entry)
        })
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
