//! Parquet files.

use std::cell::Cell;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;

use super::{OnValue, Unit};
use crate::error::{Error, Result};

pub(super) fn read(path: &Path, file: File, on_value: OnValue<'_>) -> Result<()> {
    let damaged = |row, message| Error::DamagedTable { path: path.to_owned(), row, message };
    let opened = guarded(|| SerializedFileReader::new(file));
    let reader = opened.map_err(|message| damaged(1, message))?;
    let mut rows = guarded(|| Ok(RowIter::from_file_into(Box::new(reader))))
        .map_err(|message| damaged(1, message))?;
    for number in 1.. {
        let row = guarded(|| rows.next().transpose().map(|row| row.map(|row| row.to_json_value())));
        match row.map_err(|message| damaged(number, message))? {
            Some(value) => on_value(Unit::Row, number, Ok(value)),
            None => break,
        }
    }
    Ok(())
}

thread_local! {
    /// Whether a panic of this thread is expected, and not to be told.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a piece of the reader, which panics on some damaged files where it should fail.
fn guarded<T>(work: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                previous(info);
            }
        }));
    });
    EXPECTED.set(true);
    // Of what the closure holds nothing is used again after a panic.
    let result = catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(false);
    match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its pages contradict each other".to_owned()),
    }
}
