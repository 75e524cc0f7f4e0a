//! What tokens depend on.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::encode::{EncodeOptions, Encoder};
use crate::error::Limit;
use crate::reading::Reading;
use crate::rows::Source;
use crate::template::ChatTemplate;

/// To be raised with every change of what is stored, or of the tokens that rows get.
const VERSION: u32 = 1;

const BLOCK: usize = 1 << 20;

/// A data file as it was when it was first looked at.
#[derive(Debug, PartialEq)]
pub(super) struct DataFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    modified: Option<SystemTime>,
    /// Number of its source.
    source: usize,
}

/// The files of all sources; `None` where one of them cannot be read twice, such as a pipe, or at all.
pub(super) fn files(sources: &[Source]) -> Option<Vec<DataFile>> {
    let mut files = Vec::new();
    for (source, it) in sources.iter().enumerate() {
        for path in it.files().ok()? {
            files.push(look(path, source)?);
        }
    }
    Some(files)
}

fn look(path: PathBuf, source: usize) -> Option<DataFile> {
    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
    Some(DataFile { path, bytes: metadata.len(), modified: metadata.modified().ok(), source })
}

/// Whether the files are what they were.
pub(super) fn unchanged(files: &[DataFile]) -> bool {
    files.iter().all(|file| look(file.path.clone(), file.source).as_ref() == Some(file))
}

/// A name for the tokens of these files; `None` where one cannot be read.
pub(super) fn key(
    encoder: &Encoder,
    reading: &Reading<'_>,
    limit: Limit,
    files: &[DataFile],
) -> Option<String> {
    let mut key = Sha256::new();
    let mut add = |part: &dyn Debug| {
        let text = format!("{part:?}");
        key.update((text.len() as u64).to_le_bytes());
        key.update(text);
    };
    add(&(VERSION, env!("CARGO_PKG_VERSION")));
    add(&encoder.tokenizer.to_string(false).ok()?);
    add(&(&encoder.special, encoder.special_texts()));
    let template = encoder.template.as_ref().map(ChatTemplate::source);
    add(&template);
    if template.is_some_and(|source| source.contains("strftime_now")) {
        // Such templates write the date.
        add(&(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs() / (24 * 60 * 60)));
    }
    // Packing only orders rows.
    let EncodeOptions { prompt_format, train_on, overlength, .. } = reading.options;
    add(&(prompt_format, train_on, limit, overlength));
    add(&reading.held_out.map(|(_, seed)| seed));
    for Source { format, fields, weight, .. } in reading.sources {
        add(&(format, fields, weight.to_bits()));
    }
    let hashes: io::Result<Vec<_>> = files.par_iter().map(hash).collect();
    for (file, hash) in files.iter().zip(hashes.ok()?) {
        // The ending of the name tells what is in it.
        add(&(file.source, file.path.file_name()?, hash));
    }
    let head = u128::from_be_bytes(key.finalize()[..16].try_into().expect("a digest has 32 bytes"));
    Some(format!("{head:032x}"))
}

fn hash(file: &DataFile) -> io::Result<[u8; 32]> {
    let (mut file, mut hash, mut block) = (File::open(&file.path)?, Sha256::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&block[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
