//! Where the routes that `qlora-train autotune` measured are kept: one file for each kind of card.

use std::path::PathBuf;
use std::{fs, io};

use anyhow::{Context, Result};
use kernels::{Route, RouteEntry, Routes};
use models::weights::write_bytes;

use crate::cache;
use crate::progress::warn;

/// The file for cards of this name, in the user's cache.
pub fn file(card: &str) -> Option<PathBuf> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let card: String = card.chars().map(plain).collect();
    Some(cache::dir()?.join(format!("routes-{card}.json")))
}

/// What was measured for cards of this name; nothing where nothing was, or where the file is damaged or asks for a
/// library that is not there, of which there is a warning: without it a run is slower, and as right.
pub fn read(card: &str) -> Routes {
    let mut routes = stored(card);
    let by_cublas = |entry: &RouteEntry| entry.route == Route::Cublas;
    if routes.entries.iter().any(by_cublas) && !kernels::Cuda::has_cublas() {
        warn(
            "products that were measured with cuBLASLt are done without it: libcublasLt.so.12 is not there; run \
             `qlora-train autotune` again",
        );
        routes
            .entries
            .iter_mut()
            .filter(|entry| by_cublas(entry))
            .for_each(|entry| entry.route = Route::Fused);
    }
    routes
}

fn stored(card: &str) -> Routes {
    let Some(path) = file(card) else { return Routes::default() };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Routes::default(),
        text => text.map_err(anyhow::Error::from),
    };
    text.and_then(|text| Ok(serde_json::from_str(&text)?)).unwrap_or_else(|error| {
        warn(&format!("{}: {error}; run `qlora-train autotune` again", path.display()));
        Routes::default()
    })
}

/// Keeps `measured` for cards of this name, beside what was measured for other shapes.
pub fn write(card: &str, measured: Routes) -> Result<PathBuf> {
    let path = file(card).context("neither XDG_CACHE_HOME nor HOME says where to keep results")?;
    let routes = merged(stored(card), measured);
    let mut text = serde_json::to_string_pretty(&routes)?;
    text.push('\n');
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    write_bytes(&path, text.as_bytes())?;
    Ok(path)
}

/// All that is `new`, and of `old` the shapes that it lacks.
fn merged(old: Routes, new: Routes) -> Routes {
    let shape = |entry: &RouteEntry| (entry.n, entry.k);
    let kept = |entry: &RouteEntry| new.entries.iter().all(|other| shape(other) != shape(entry));
    let mut entries: Vec<RouteEntry> = old.entries.into_iter().filter(kept).collect();
    entries.extend(new.entries);
    entries.sort_by_key(|entry| (shape(entry), entry.backward, entry.rows));
    Routes { entries }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_replaced_as_a_whole() {
        let entry = |n, rows, route| RouteEntry { n, k: 64, backward: false, rows, route };
        let old = vec![
            entry(8, 16, Route::Fused),
            entry(8, 32, Route::Fused),
            entry(4, 16, Route::Fused),
        ];
        let new = vec![entry(8, 16, Route::Dequantized)];
        let merged = merged(Routes { entries: old }, Routes { entries: new });
        assert_eq!(merged.entries, [entry(4, 16, Route::Fused), entry(8, 16, Route::Dequantized)]);
    }
}
