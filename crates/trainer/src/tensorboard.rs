//! TensorBoard's event files, beside `metrics.jsonl` and with the same rows.
//!
//! A file is records of a length, data and their checksums (TensorFlow's `record_writer.cc`), the data an `Event`
//! (`event.proto`) in protobuf. Each part of a run writes a file of its own, as `SummaryWriter` with `purge_step` does:
//! whatever a killed process left half written, the next file begins whole, and says from which step on
//! earlier ones no longer count.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::append::Appender;
use crate::metrics::{AnswersRow, Row};

const PREFIX: &str = "events.out.tfevents.";

/// Fields of `Event`, `Summary`, `Summary.Value` and `SessionLog`.
const WALL_TIME: u32 = 1;
const STEP: u32 = 2;
const FILE_VERSION: u32 = 3;
const SUMMARY: u32 = 5;
const SESSION_LOG: u32 = 7;
const VALUE: u32 = 1;
const TAG: u32 = 1;
const SIMPLE_VALUE: u32 = 2;
const STATUS: u32 = 1;

/// `SessionLog.START`.
const START: u64 = 1;

/// Writes the event file of one part of a run.
#[derive(Debug)]
pub struct EventWriter(Appender);

impl EventWriter {
    /// Starts a file in `dir` for a new run.
    pub fn create(dir: &Path) -> Result<Self> {
        let (mut writer, now) = Self::open(dir)?;
        writer.record(&version(now));
        Ok(writer)
    }

    /// Starts a file in `dir` for what follows the first `steps` steps: later ones in earlier files, which are done
    /// again, no longer count.
    pub fn resume(dir: &Path, steps: usize) -> Result<Self> {
        let (mut writer, now) = Self::open(dir)?;
        let start = Message::default().uint(STATUS, START);
        writer.record(&version(now));
        writer.record(&event(now, steps + 1).message(SESSION_LOG, &start));
        Ok(writer)
    }

    fn open(dir: &Path) -> Result<(Self, f64)> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Read in the order of their names.
        let name = format!("{PREFIX}{:010}.{:09}.qlora-train", now.as_secs(), now.subsec_nanos());
        Ok((Self(Appender::open(&dir.join(name), <[u8]>::len)?), now.as_secs_f64()))
    }

    /// Adds a row; one of a step that was passed over has no values.
    pub fn write(&mut self, row: &Row) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let values = values(row);
        if values.is_empty() {
            return;
        }
        let summary = values.iter().fold(Message::default(), |summary, (tag, value)| {
            let value = Message::default().text(TAG, tag).float(SIMPLE_VALUE, *value as f32);
            summary.message(VALUE, &value)
        });
        self.record(&event(now.as_secs_f64(), row.step()).message(SUMMARY, &summary));
    }

    fn record(&mut self, event: &Message) {
        self.0.append(&framed(&event.0));
    }
}

/// Removes the event files in `dir`.
pub fn remove(dir: &Path) -> Result<()> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| dir.display().to_string())?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Names as the Hugging Face trainer has them.
fn values(row: &Row) -> Vec<(&'static str, f64)> {
    match row {
        Row::Step(row) => vec![
            ("train/loss", row.loss),
            ("train/learning_rate", row.lr),
            ("train/grad_norm", row.grad_norm),
            ("train/epoch", row.epoch),
            ("train/tokens_per_second", row.tokens_per_second),
        ],
        Row::Eval(row) => vec![("eval/loss", row.eval_loss), ("eval/perplexity", row.perplexity)],
        Row::Skipped(_) => Vec::new(),
        Row::Answers(AnswersRow { scores, .. }) => {
            let number = scores.number_match.map(|share| ("answers/number_match", share));
            let rest = [("answers/exact_match", scores.exact_match), ("answers/f1", scores.f1)];
            rest.into_iter().chain(number).collect()
        }
    }
}

fn version(time: f64) -> Message {
    Message::default().double(WALL_TIME, time).text(FILE_VERSION, "brain.Event:2")
}

fn event(time: f64, step: usize) -> Message {
    Message::default().double(WALL_TIME, time).uint(STEP, step as u64)
}

/// A record of the file.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let parts = [&length[..], &masked_crc(&length), data, &masked_crc(data)];
    parts.concat()
}

/// CRC-32C, masked so that data which holds checksums has no odd ones (TensorFlow's `crc32c.h`).
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A protobuf message in the making.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u32, wire: u32) {
        self.varint((field << 3 | wire).into());
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn uint(mut self, field: u32, value: u64) -> Self {
        self.key(field, 0);
        self.varint(value);
        self
    }

    fn double(mut self, field: u32, value: f64) -> Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u32, value: f32) -> Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u32, message: &Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::EvalRow;

    #[test]
    fn a_record_is_what_tensorflow_writes() {
        // The first record of any event file, at time 0.
        let data = version(0.0).0;
        assert_eq!(data, b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2");
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        let record = framed(&[0; 32]);
        assert_eq!(record[..8], [32, 0, 0, 0, 0, 0, 0, 0]);
        let masked = 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(record[44..], masked.to_le_bytes());
    }

    /// Data of the records, as far as they are whole.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while let Some((length, rest)) = bytes.split_at_checked(8) {
            let size = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let Some((sum, rest)) = rest.split_at_checked(4) else { break };
            assert_eq!(sum, masked_crc(length));
            let Some((data, rest)) = rest.split_at_checked(size) else { break };
            let Some((sum, rest)) = rest.split_at_checked(4) else { break };
            assert_eq!(sum, masked_crc(data));
            found.push(data.to_vec());
            bytes = rest;
        }
        found
    }

    fn eval(step: usize) -> Row {
        let (eval_loss, perplexity) = (0.5, 1.5);
        Row::Eval(EvalRow { step, eval_loss, perplexity, eval_trained_tokens: 3, elapsed_s: 1.0 })
    }

    fn files(dir: &Path) -> Vec<Vec<u8>> {
        let mut paths: Vec<_> =
            dir.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn a_part_of_a_run_has_a_file_and_says_where_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        (1..4).for_each(|step| writer.write(&eval(step)));
        let mut writer = EventWriter::resume(dir.path(), 200).unwrap();
        writer.write(&eval(201));
        let files = files(dir.path());
        assert_eq!(files.iter().map(|file| records(file).len()).collect::<Vec<_>>(), [4, 3]);
        let second = records(&files[1]);
        // Step 201 and a session log with status 1.
        assert!(second[1].ends_with(&[0x10, 0xc9, 1, 0x3a, 2, 0x08, 1]), "{:x?}", second[1]);
        let expected = b"\x0a\x0feval/perplexity\x15\0\0\xc0\x3f";
        assert!(second[2].ends_with(&expected[2..]), "{:x?}", second[2]);
        assert!(second[2].windows(3).any(|bytes| bytes == [0x10, 0xc9, 1]));
        fs::write(dir.path().join("else"), "").unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(self::files(dir.path()), [b""], "what others put there stays");
    }

    proptest! {
        #[test]
        fn a_cut_leaves_whole_records(cut in any::<prop::sample::Index>()) {
            let bytes: Vec<u8> = (1..6).flat_map(|i| framed(&vec![i; i as usize * 40])).collect();
            let left = records(&bytes[..cut.index(bytes.len() + 1)]);
            let expected: Vec<Vec<u8>> = (1..6).map(|i| vec![i; i as usize * 40]).collect();
            prop_assert_eq!(&left[..], &expected[..left.len()]);
        }
    }
}
