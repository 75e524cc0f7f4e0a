//! Tables in text: a header with the names of the fields, then records.

use std::io::BufRead;
use std::path::Path;

use csv::{ErrorKind, Position, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::super::Object;
use super::{OnValue, Unit};
use crate::error::{Error, Problem, Result};

pub(super) fn read(
    path: &Path,
    reader: Box<dyn BufRead>,
    delimiter: u8,
    on_value: OnValue<'_>,
) -> Result<()> {
    let damaged = |line, message: String| Error::Damaged { path: path.to_owned(), line, message };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(reader);
    let header = reader.headers().map_err(|error| damaged(1, message(&error)))?.clone();
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = header.iter().find(|name| !seen.insert(name.to_owned())) {
        return Err(damaged(1, format!("the header names the field `{twice}` twice")));
    }
    let mut record = StringRecord::new();
    let mut lines = Lines::default();
    loop {
        let line = match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => lines.of(record.position()),
            Err(error) if matches!(error.kind(), ErrorKind::Io(_)) => {
                return Err(damaged(lines.of(Some(reader.position())), error.to_string()));
            }
            Err(error) => {
                let problem = Problem::Table { message: message(&error) };
                on_value(Unit::Line, lines.of(error.position()), Err(problem));
                continue;
            }
        };
        let fields = header.iter().zip(&record);
        let fields = fields.map(|(name, text)| (name.to_owned(), text.into()));
        on_value(Unit::Line, line, Ok(Value::Object(fields.collect::<Object>())));
    }
}

/// The lines that records begin on.
#[derive(Debug, Default)]
struct Lines {
    /// Whether a line ends with CR and LF, told by the first record: the reader sees it begin between the two, on the
    /// header's line.
    carriage_return: Option<bool>,
}

impl Lines {
    fn of(&mut self, position: Option<&Position>) -> usize {
        let line = position.map_or(1, Position::line) as usize;
        line + usize::from(*self.carriage_return.get_or_insert(line == 1))
    }
}

fn message(error: &csv::Error) -> String {
    match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("the record has {len} fields, the header {expected_len}")
        }
        ErrorKind::Utf8 { .. } => "not valid UTF-8; save the file as UTF-8".to_owned(),
        _ => error.to_string(),
    }
}
