//! What transformers adds to Jinja for chat templates.

use std::fmt::Write as _;
use std::io;

use super::print::MAX_BYTES;
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

/// The `iterable` test. The engine lets `for` run over nothing, so its own test holds for `none`; in Jinja it does not,
/// and templates tell by it whether there are tools or a content.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && (value.as_str().is_some() || value.try_iter().is_ok())
}

/// Jinja reads `\r\n` and a lone `\r` as `\n` wherever they are in a template.
pub(super) fn unix_newlines(source: &str) -> String {
    source.replace("\r\n", "\n").replace('\r', "\n")
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=..., sort_keys=...)`.
pub(super) fn tojson(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let invalid =
        |error: serde_json::Error| Error::new(ErrorKind::InvalidOperation, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut json = to_json(value).map_err(invalid)?;
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

/// The value as JSON, if that is not too long: a list that a template doubles again and again takes for ever to walk
/// through.
fn to_json(value: &Value) -> serde_json::Result<serde_json::Value> {
    let mut bytes = Limited(Vec::new());
    serde_json::to_writer(&mut bytes, value)?;
    serde_json::from_slice(&bytes.0)
}

/// Fails when it is full.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_BYTES {
            return Err(io::Error::other("the value is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

/// Python's default separators, `", "` and `": "`, and its way to write floats.
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

    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }
}

/// Python's `repr` of a finite float: the shortest digits, with an exponent of at least two digits where it is below
/// -4 or above 15.
pub(super) fn python_float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (0.1, "0.1"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }
}
