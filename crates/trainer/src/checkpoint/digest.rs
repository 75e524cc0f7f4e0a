//! SHA-256 of files and of what lies in a directory.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

const BLOCK: usize = 1 << 20;

/// Larger files are known by their length and by blocks spread over them: hashing all of a model of 16 GB would
/// take longer than loading it.
const WHOLE: u64 = 256 << 20;

/// How many blocks.
const SAMPLES: u64 = 64;

/// Hash of a file's length and content; of a file above 256 MiB, 64 blocks of 1 MiB are read, the first and the
/// last among them. Of a directory's files, those that `wanted` takes by name, in the order of their names.
pub fn content_hash(path: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<String> {
    let mut hash = Sha256::new();
    if !path.is_dir() {
        add_file(&mut hash, path)?;
        return Ok(hex(hash));
    }
    let names: io::Result<Vec<_>> = path.read_dir()?.map(|entry| Ok(entry?.file_name())).collect();
    let mut names: Vec<String> =
        names?.into_iter().filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    for name in names.iter().filter(|name| wanted(name)) {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        add_file(&mut hash, &path.join(name))?;
    }
    Ok(hex(hash))
}

/// Length and SHA-256 of a whole file.
pub(super) fn file_digest(path: &Path) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let bytes = add(&mut hash, &mut File::open(path)?)?;
    Ok((bytes, hex(hash)))
}

fn add_file(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    hash.update(length.to_le_bytes());
    if length <= WHOLE {
        return add(hash, &mut file).map(|_| ());
    }
    for sample in 0..SAMPLES {
        let last = length - BLOCK as u64;
        file.seek(SeekFrom::Start((last as u128 * sample as u128 / (SAMPLES as u128 - 1)) as u64))?;
        add(hash, &mut (&mut file).take(BLOCK as u64))?;
    }
    Ok(())
}

fn add(hash: &mut Sha256, from: &mut impl Read) -> io::Result<u64> {
    let (mut block, mut bytes) = (vec![0; BLOCK], 0);
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(bytes),
            Ok(read) => {
                hash.update(&block[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_hash_knows_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let hash = || content_hash(dir.path(), |name| name != "notes").unwrap();
        put("a", "one");
        put("b", "two");
        let before = hash();
        put("notes", "anything");
        assert_eq!(hash(), before);
        put("b", "twO");
        assert_ne!(hash(), before);
        put("b", "two");
        assert_eq!(hash(), before);
        fs::rename(dir.path().join("b"), dir.path().join("c")).unwrap();
        assert_ne!(hash(), before);
        let abc = dir.path().join("abc");
        fs::write(&abc, "abc").unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file_digest(&abc).unwrap(), (3, known.to_owned()));
    }

    #[test]
    fn a_large_file_is_known_by_samples() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let file = File::create(&path).unwrap();
        let hash = || content_hash(&path, |_| true).unwrap();
        file.set_len(WHOLE + 12_345).unwrap();
        let zeros = hash();
        file.set_len(WHOLE + 12_346).unwrap();
        let longer = hash();
        assert_ne!(longer, zeros);
        let at = |offset: u64| {
            let mut file = &file;
            file.seek(SeekFrom::Start(offset)).unwrap();
            io::Write::write_all(&mut file, b"x").unwrap();
        };
        at(WHOLE + 12_345);
        assert_ne!(hash(), longer, "the last byte");
    }
}
