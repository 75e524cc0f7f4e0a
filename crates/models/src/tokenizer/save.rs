//! Writing the tokenizer files that transformers reads.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Tokenizer;
use crate::{Error, Result, weights::write_bytes};

/// The class that takes `tokenizer.json` as it is. Model-specific classes rebuild parts of it: transformers 5 drops
/// the digit splitting of a byte-level tokenizer that is called `GPT2Tokenizer`.
const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";

/// Files of every tokenizer.
const FILES: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
];

const TEMPLATE: &str = "chat_template.jinja";

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` with the
    /// tokens that begin, end and fill, and with a chat template `chat_template.jinja` into an existing directory.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let json = self.inner.to_string(false).map_err(Error::tokenizer)?;
        write(dir, "tokenizer_config.json", &pretty(self.config_json()))?;
        write(dir, "special_tokens_map.json", &pretty(self.special_tokens_map()))?;
        write(dir, "generation_config.json", &pretty(self.generation_config()))?;
        if let Some(template) = &self.chat_template {
            write(dir, TEMPLATE, template)?;
        }
        write(dir, "tokenizer.json", &json)
    }

    /// Whether all files that [`save`](Self::save) writes are in `dir`.
    pub fn is_saved(&self, dir: &Path) -> bool {
        let template = self.chat_template.as_ref().map(|_| TEMPLATE);
        FILES.into_iter().chain(template).all(|name| dir.join(name).exists())
    }

    fn config_json(&self) -> Map<String, Value> {
        let mut config = self.config.clone();
        // The template has its own file, and the post-processor of tokenizer.json decides about added tokens.
        for field in
            ["chat_template", "add_bos_token", "add_eos_token", "tokenizer_file", "name_or_path"]
        {
            config.shift_remove(field);
        }
        config.extend(self.special_tokens_map());
        config.insert("tokenizer_class".into(), TOKENIZER_CLASS.into());
        config
    }

    fn generation_config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        for (field, token) in
            [("bos_token_id", &self.special.bos), ("pad_token_id", &self.special.pad)]
        {
            config.extend(token.as_ref().map(|token| (field.to_owned(), token.id.into())));
        }
        if !self.eos_token_ids.is_empty() {
            config.insert("eos_token_id".into(), json!(self.eos_token_ids));
        }
        config
    }

    fn special_tokens_map(&self) -> Map<String, Value> {
        let named = self.special.named();
        named.map(|(name, token)| (name.to_owned(), token.content.clone().into())).collect()
    }
}

fn pretty(object: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(object))
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    write_bytes(&dir.join(name), text.as_bytes())
}
