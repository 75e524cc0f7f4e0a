//! What transformers adds to Jinja for chat templates.

use std::fmt::Write as _;
use std::io;

use jiff::Timestamp;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

const REFUSAL: &str = "the template refuses the conversation: ";

pub(super) fn syntax() -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true);
    builder.build().expect("the default delimiters are valid")
}

/// `raise_exception(message)`: how a template says that it cannot render a conversation.
pub(super) fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{REFUSAL}{message}")))
}

pub(super) fn is_refusal(detail: &str) -> bool {
    detail.starts_with(REFUSAL)
}

/// `strftime_now(format)` at a given time, UTC.
pub(super) fn strftime(format: &str, unix_seconds: i64) -> Result<String, Error> {
    let invalid = |error: jiff::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let now = Timestamp::from_second(unix_seconds).map_err(invalid)?;
    jiff::fmt::strtime::format(format, now).map_err(invalid)
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=..., sort_keys=...)`.
pub(super) fn tojson(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let invalid =
        |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(invalid)?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let text = match indent {
        None => dump(&json, Spaced(CompactFormatter)),
        Some(width) => dump(&json, PrettyFormatter::with_indent(" ".repeat(width).as_bytes())),
    };
    let text = text.map_err(invalid)?;
    Ok(if ensure_ascii == Some(true) { escape_non_ascii(&text) } else { text })
}

fn dump(json: &serde_json::Value, formatter: impl Formatter) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    json.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(String::from_utf8(bytes).expect("JSON is UTF-8"))
}

/// Outside its strings JSON is ASCII, so the whole text can be escaped at once.
fn escape_non_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => escaped.push(char::from(byte)),
            _ => write!(escaped, "\\u{unit:04x}").expect("writing to a string cannot fail"),
        }
    }
    escaped
}

/// Python's default separators: `", "` and `": "`.
struct Spaced(CompactFormatter);

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)?;
        writer.write_all(b" ")
    }
}
