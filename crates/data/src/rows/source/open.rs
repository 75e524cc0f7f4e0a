//! Which kind a file is, and its bytes out of their compression.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Result};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const PARQUET: &[u8] = b"PAR1";

/// How rows lie in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One JSON object a line.
    Lines,
    /// A JSON list of objects, or lines of them.
    Json,
    /// A header and records.
    Table {
        /// Between fields.
        delimiter: u8,
    },
}

pub(super) struct Opened {
    pub(super) kind: Kind,
    pub(super) reader: Box<dyn BufRead>,
}

pub(super) enum Input {
    Text(Opened),
    Parquet(File),
}

/// Opens a file. Compression and Parquet are told by how the file begins, the kind of text by its name.
pub(super) fn open(path: &Path) -> Result<Input> {
    let read_error = |source| Error::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read_error)?;
    let mut start = Vec::new();
    // What is no plain file, such as a pipe, cannot be looked at and read again.
    if file.metadata().map_err(read_error)?.is_file() {
        file.by_ref().take(4).read_to_end(&mut start).map_err(read_error)?;
        file.rewind().map_err(read_error)?;
    }
    if start == PARQUET {
        return Ok(Input::Parquet(file));
    }
    let file = BufReader::new(file);
    let reader: Box<dyn BufRead> = if start.starts_with(GZIP) {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else if start == ZSTD {
        Box::new(BufReader::new(zstd::Decoder::with_buffer(file).map_err(read_error)?))
    } else {
        Box::new(file)
    };
    Ok(Input::Text(Opened { kind: kind(path).unwrap_or(Kind::Lines), reader }))
}

/// Whether a file of a directory is meant to be read.
pub(super) fn is_data(path: &Path) -> bool {
    kind(path).is_some() || extension(path).as_deref() == Some("parquet")
}

/// By the name, without the ending of its compression.
fn kind(path: &Path) -> Option<Kind> {
    match extension(path)?.as_str() {
        "jsonl" | "ndjson" => Some(Kind::Lines),
        "json" => Some(Kind::Json),
        "csv" => Some(Kind::Table { delimiter: b',' }),
        "tsv" => Some(Kind::Table { delimiter: b'\t' }),
        _ => None,
    }
}

fn extension(path: &Path) -> Option<String> {
    let lower = |path: &Path| Some(path.extension()?.to_str()?.to_lowercase());
    match lower(path)?.as_str() {
        "gz" | "zst" | "zstd" => lower(Path::new(path.file_stem()?)),
        other => Some(other.to_owned()),
    }
}
