//! A JSON file: a list of rows, or lines of them.

use std::fmt;
use std::io::BufRead;
use std::path::Path;

use serde::Deserializer;
use serde::de::{SeqAccess, Visitor};
use serde_json::Value;

use super::{OnValue, Unit, lines};
use crate::error::{Error, Result};

pub(super) fn read(path: &Path, mut reader: Box<dyn BufRead>, on_value: OnValue<'_>) -> Result<()> {
    let damaged = |message: String, line| Error::Damaged { path: path.to_owned(), line, message };
    let start = reader.fill_buf().map_err(|error| damaged(error.to_string(), 1))?;
    let start = start.strip_prefix("\u{feff}".as_bytes()).unwrap_or(start);
    if start.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return lines::read(path, reader, on_value);
    }
    let mark = reader.fill_buf().is_ok_and(|start| start.starts_with("\u{feff}".as_bytes()));
    reader.consume(if mark { "\u{feff}".len() } else { 0 });
    let mut json = serde_json::Deserializer::from_reader(reader);
    json.deserialize_seq(Entries(on_value)).and_then(|()| json.end()).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        damaged(format!("not valid JSON ({message}, column {})", error.column()), error.line())
    })
}

/// Hands the entries of a list on, one by one.
struct Entries<'a>(OnValue<'a>);

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut number = 0;
        while let Some(value) = entries.next_element::<Value>()? {
            number += 1;
            (self.0)(Unit::Row, number, Ok(value));
        }
        Ok(())
    }
}
