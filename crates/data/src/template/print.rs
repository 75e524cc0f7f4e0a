//! How a template's values are written: as Python's `str` has them, lists no longer than a limit.

use std::fmt::{self, Write};

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

use super::functions::python_float;

/// Most bytes of a list or an object. The engine counts what was written only afterwards, and a list that a template
/// doubles again and again takes for ever to walk through.
pub(super) const MAX_BYTES: usize = 4 << 20;

/// Lists within lists; a namespace may hold itself.
const MAX_DEPTH: usize = 64;

/// The environment's formatter.
pub(super) fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    str(out, value)
}

/// The `string` filter.
pub(super) fn string(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    str(&mut text, value)?;
    Ok(text)
}

/// Python's `str` of a value.
fn str(out: &mut impl Write, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => repr(&mut Limited { out, left: MAX_BYTES }, value, 0),
    };
    written.map_err(|fmt::Error| {
        Error::new(ErrorKind::OutOfFuel, "a value is too long or too deep to be written")
    })
}

fn repr(out: &mut impl Write, value: &Value, depth: usize) -> fmt::Result {
    if depth > MAX_DEPTH {
        return Err(fmt::Error);
    }
    match value.kind() {
        ValueKind::Undefined if depth == 0 => Ok(()),
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) if number.is_finite() => out.write_str(&python_float(number)),
            _ => write!(out, "{value}"),
        },
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq if !value.is_tuple() => {
            out.write_char('[')?;
            for (index, item) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if index == 0 { "" } else { ", " })?;
                repr(out, &item, depth + 1)?;
            }
            out.write_char(']')
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (index, key) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if index == 0 { "" } else { ", " })?;
                repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                repr(out, &value.get_item(&key).map_err(|_| fmt::Error)?, depth + 1)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

/// Python's `repr` of a text.
fn quoted(out: &mut impl Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\"),
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if c < ' ' || c == '\x7f' => write!(out, "\\x{:02x}", u32::from(c)),
            c => out.write_char(c),
        }?;
    }
    out.write_char(quote)
}

/// Fails after so many bytes.
struct Limited<'a, W> {
    out: &'a mut W,
    left: usize,
}

impl<W: Write> Write for Limited<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.out.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    #[test]
    fn values_are_written_as_python_does() {
        let mut environment = Environment::new();
        environment.set_formatter(super::print);
        let source = "{{ none }} {{ true }} {{ 1.0 }} {{ 1e-7 }} {{ 3 }} {{ x }} {{ 'a' }} {{ gone }}|\
                      {{ ['a', none, 1.5, [true]] }} {{ {'k': \"it's\", 'n': {}} }} {{ ['\"\\n\\'é'] }}";
        let text = environment.render_str(source, context! { x => "x" }).unwrap();
        // Of Python 3.11 with Jinja 3.1.6.
        assert_eq!(
            text,
            "None True 1.0 1e-07 3 x a |['a', None, 1.5, [True]] {'k': \"it's\", 'n': {}} ['\"\\n\\'é']"
        );
    }
}
