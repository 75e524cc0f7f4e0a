//! Files as nobody should offer them. The tests of the library and of the binary both read them.
#![allow(clippy::too_many_lines, reason = "tables have a line for each case")]

mod adapter;
mod bnb;
mod config;
mod gguf;
mod links;
mod safetensors;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tempfile::TempDir;

/// What reads the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A model in Hugging Face's layout.
    Model,
    /// The model in `m.gguf`.
    Gguf,
    /// An adapter of the tiny llama.
    Adapter,
}

pub(crate) enum File {
    Bytes(Vec<u8>),
    /// A symbolic link.
    Link(&'static str),
    Directory,
    /// Some bytes, then a hole up to this length.
    Sparse(Vec<u8>, u64),
}

/// Names and contents of plain files.
pub(crate) type Bytes = Vec<(&'static str, Vec<u8>)>;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) reader: Reader,
    pub(crate) files: Vec<(&'static str, File)>,
    /// Part of the message.
    pub(crate) says: &'static str,
}

impl Case {
    /// Writes the files into a new directory.
    pub(crate) fn write(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, file) in &self.files {
            let path = dir.path().join(name);
            match file {
                File::Bytes(bytes) => fs::write(path, bytes).unwrap(),
                File::Link(target) => symlink(target, path).unwrap(),
                File::Directory => fs::create_dir(path).unwrap(),
                File::Sparse(bytes, length) => {
                    fs::write(&path, bytes).unwrap();
                    fs::File::options().write(true).open(path).unwrap().set_len(*length).unwrap();
                }
            }
        }
        dir
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    [safetensors::cases, config::cases, bnb::cases, gguf::cases, adapter::cases, links::cases]
        .into_iter()
        .flat_map(|cases| cases())
        .collect()
}

/// Cases of plain files: name, files, and part of the message.
fn plain(reader: Reader, list: Vec<(&'static str, Bytes, &'static str)>) -> Vec<Case> {
    let case = |(name, files, says): (_, Bytes, _)| {
        let files = files.into_iter().map(|(name, bytes)| (name, File::Bytes(bytes))).collect();
        Case { name, reader, files, says }
    };
    list.into_iter().map(case).collect()
}

/// The repository's `tests/fixtures`, from whichever package is tested.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let fixtures = above.find_map(|dir| Some(dir.join("tests/fixtures")).filter(|d| d.is_dir()));
    fixtures.unwrap().join(name)
}

pub(crate) fn read(name: &str) -> Vec<u8> {
    fs::read(fixture(name)).unwrap()
}

/// A safetensors file.
fn framed(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, data].concat()
}

/// A file with its header changed.
fn header(bytes: &[u8], change: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(header.as_object_mut().unwrap());
    framed(header.to_string().as_bytes(), &bytes[8 + length..])
}

/// Where the data of a tensor begins in a file.
fn data_of(bytes: &[u8], name: &str) -> usize {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    8 + length + header[name]["data_offsets"][0].as_u64().unwrap() as usize
}

/// A file with the first f32 of a tensor replaced.
fn with_value(mut bytes: Vec<u8>, name: &str, value: f32) -> Vec<u8> {
    let at = data_of(&bytes, name);
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}
