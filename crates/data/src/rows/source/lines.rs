//! JSON lines.

use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;

use super::{OnValue, Unit};
use crate::error::{Error, Problem, Result};

/// Longest line: far above any row that could be learned, low enough that a file without line ends, or one that
/// unpacks to one, does not fill the memory.
const MAX_LINE: u64 = 256 << 20;

pub(super) fn read(path: &Path, mut reader: Box<dyn BufRead>, on_value: OnValue<'_>) -> Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        let read = read.map_err(|source| Error::Damaged {
            path: path.to_owned(),
            line,
            message: source.to_string(),
        })?;
        if read == 0 {
            break;
        }
        if read as u64 == MAX_LINE {
            let message = format!("the line has more than {} MB", MAX_LINE >> 20);
            return Err(Error::Damaged { path: path.to_owned(), line, message });
        }
        if let Some(value) = parse(&bytes, line == 1).transpose() {
            on_value(Unit::Line, line, value);
        }
    }
    Ok(())
}

/// `None` for a blank line.
fn parse(bytes: &[u8], first: bool) -> Result<Option<Value>, Problem> {
    let text = text(bytes)?;
    let text = if first { text.trim_start_matches('\u{feff}') } else { text };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // The parser sees one line, so its own "line 1" would mislead.
        let message = message.split(" at line ").next().unwrap_or(&message);
        Problem::Json { message: format!("{message}, column {}", error.column()) }
    })?;
    Ok(Some(value))
}

fn text(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| {
        let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        Problem::Encoding { byte: error.valid_up_to() + 1, utf16 }
    })
}
