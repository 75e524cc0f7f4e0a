//! Reading the tokenizer files of a Hugging Face directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::{SpecialToken, SpecialTokens, Tokenizer};
use crate::{Error, Result, settings};

/// Several times the largest `tokenizer.json` there is.
const MOST_BYTES: u64 = 256 << 20;

/// Files that hold a tokenizer in a form that is not read.
const OTHER_FORMATS: [&str; 5] =
    ["tokenizer.model", "vocab.json", "tekken.json", "spiece.model", "vocab.txt"];

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they exist, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `chat_template.jinja` and `generation_config.json` of a directory.
    ///
    /// # Errors
    /// [`Error::Format`] for a missing or damaged `tokenizer.json`, [`Error::Field`] for a special token that it
    /// does not have.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::format(&path, missing(dir)));
        }
        settings::check(&path, MOST_BYTES)?;
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::format(&path, format!("not a tokenizer: {e}")))?;
        let config = Json::read(dir, "tokenizer_config.json")?;
        add_listed_tokens(&mut inner, &config)?;
        let map = Json::read(dir, "special_tokens_map.json")?;
        let special = SpecialTokens {
            bos: special_token(&inner, "bos_token", &config, &map)?,
            eos: special_token(&inner, "eos_token", &config, &map)?,
            pad: special_token(&inner, "pad_token", &config, &map)?,
            unk: special_token(&inner, "unk_token", &config, &map)?,
        };
        let chat_template = chat_template(dir, &config)?;
        let mut this = Self::new(inner, special, config.fields.clone())?;
        this.chat_template = chat_template;
        this.warnings = added_token_warnings(&this, &config)?;
        for id in generation_eos(&Json::read(dir, "generation_config.json")?)? {
            if !this.eos_token_ids.contains(&id) {
                this.eos_token_ids.push(id);
            }
        }
        Ok(this)
    }
}

fn missing(dir: &Path) -> String {
    let found: Vec<_> = OTHER_FORMATS.into_iter().filter(|file| dir.join(file).is_file()).collect();
    if found.is_empty() {
        return "no such file; the tokenizer is read from there".to_owned();
    }
    format!(
        "no such file, and {} cannot be read; convert it with Python: \
         transformers.AutoTokenizer.from_pretrained(\"{dir}\").save_pretrained(\"{dir}\")",
        found.join(", "),
        dir = dir.display()
    )
}

/// A JSON object and the file it is from; empty when there is no such file.
struct Json {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Json {
    fn read(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let text = settings::read_if_there(&path)?.unwrap_or_else(|| "{}".to_owned());
        let fields =
            serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
        Ok(Self { path, fields })
    }

    /// A field that is neither missing nor null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn error(&self, field: &str, message: impl Into<String>) -> Error {
        Error::field(&self.path, field, message)
    }
}

/// transformers' Llama tokenizers make their post-processor from `add_bos_token` and `add_eos_token`; here that of
/// `tokenizer.json` decides, so a difference is told.
fn added_token_warnings(tokenizer: &Tokenizer, config: &Json) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (field, token, adds) in [
        ("add_bos_token", "begin", tokenizer.adds_bos_token()),
        ("add_eos_token", "end", tokenizer.adds_eos_token()),
    ] {
        let Some(value) = config.get(field) else { continue };
        let wanted = value
            .as_bool()
            .ok_or_else(|| config.error(field, format!("is {value}; expected true or false")))?;
        if wanted != adds {
            let does = if adds { "adds" } else { "does not add" };
            warnings.push(format!(
                "{}: field `{field}` = {wanted} is not followed: the post-processor of tokenizer.json {does} the \
                 {token} token, and it decides",
                config.path.display()
            ));
        }
    }
    Ok(warnings)
}

/// Adds tokens that only `added_tokens_decoder` of `tokenizer_config.json` lists.
fn add_listed_tokens(inner: &mut tokenizers::Tokenizer, config: &Json) -> Result<()> {
    const FIELD: &str = "added_tokens_decoder";
    let Some(listed) = config.get(FIELD) else { return Ok(()) };
    let listed = listed.as_object().ok_or_else(|| config.error(FIELD, "is not an object"))?;
    let mut missing = Vec::new();
    for (id, token) in listed {
        let id: u32 =
            id.parse().map_err(|_| config.error(FIELD, format!("`{id}` is not an id")))?;
        let field = format!("{FIELD}.{id}");
        let content = content(token).ok_or_else(|| config.error(&field, "has no `content`"))?;
        let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
        match inner.token_to_id(content) {
            Some(found) if found == id => {}
            Some(found) => {
                return Err(
                    config.error(&field, format!("`{content}` has id {found} in tokenizer.json"))
                );
            }
            None => {
                let token = AddedToken::from(content.to_owned(), flag("special"))
                    .lstrip(flag("lstrip"))
                    .rstrip(flag("rstrip"))
                    .single_word(flag("single_word"))
                    .normalized(flag("normalized"));
                missing.push((id, token));
            }
        }
    }
    missing.sort_by_key(|(id, _)| *id);
    for (id, token) in missing {
        let content = token.content.clone();
        inner.add_tokens([token]).map_err(Error::tokenizer)?;
        if inner.token_to_id(&content) != Some(id) {
            let field = format!("{FIELD}.{id}");
            return Err(config.error(
                &field,
                format!("`{content}` is not in tokenizer.json and cannot get this id"),
            ));
        }
    }
    Ok(())
}

/// A token written as a string or as an object with `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A token named in `tokenizer_config.json`, else in `special_tokens_map.json`.
fn special_token(
    inner: &tokenizers::Tokenizer,
    name: &str,
    config: &Json,
    map: &Json,
) -> Result<Option<SpecialToken>> {
    let Some((file, value)) =
        [config, map].into_iter().find_map(|file| Some((file, file.get(name)?)))
    else {
        return Ok(None);
    };
    let content =
        content(value).ok_or_else(|| file.error(name, format!("is {value}, not a token")))?;
    let id = inner.token_to_id(content).ok_or_else(|| {
        let message = format!(
            "is `{content}`, which tokenizer.json does not have; name one that it has, or null"
        );
        file.error(name, message)
    })?;
    Ok(Some(SpecialToken { content: content.to_owned(), id }))
}

/// `chat_template.jinja`, else the template in `tokenizer_config.json`: a string, or a list with one named `default`.
fn chat_template(dir: &Path, config: &Json) -> Result<Option<String>> {
    const FIELD: &str = "chat_template";
    let path = dir.join("chat_template.jinja");
    if let Some(template) = settings::read_if_there(&path)? {
        return Ok(Some(template));
    }
    match config.get(FIELD) {
        None => Ok(None),
        Some(Value::String(template)) => Ok(Some(template.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            let template = default.and_then(|entry| entry["template"].as_str());
            let template = template.ok_or_else(|| {
                config.error(FIELD, "is a list without a template named `default`")
            })?;
            Ok(Some(template.to_owned()))
        }
        Some(_) => Err(config.error(FIELD, "is neither a string nor a list of named templates")),
    }
}

/// `eos_token_id` of `generation_config.json`: none, one or several.
fn generation_eos(config: &Json) -> Result<Vec<u32>> {
    const FIELD: &str = "eos_token_id";
    let ids = match config.get(FIELD) {
        None => return Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.as_slice(),
        Some(id) => std::slice::from_ref(id),
    };
    let ids = ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
    ids.collect::<Option<_>>()
        .ok_or_else(|| config.error(FIELD, "holds something that is not a token id"))
}
