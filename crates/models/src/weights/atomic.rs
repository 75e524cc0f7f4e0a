//! Files and directories that appear whole or not at all.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{Error, Result};

/// Large enough that writing tensors is not bound by system calls.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes a file through `write` so that `path` holds either the old or the complete new contents, also after a crash.
pub fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let parent = parent(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temp = builder.tempfile_in(parent).map_err(Error::io(parent))?;
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, temp.as_file());
    write(&mut writer)?;
    writer.flush().map_err(Error::io(path))?;
    drop(writer);
    temp.as_file().sync_all().map_err(Error::io(path))?;
    temp.persist(path).map_err(|e| Error::io(path)(e.error))?;
    sync_dir(parent)
}

/// [`write_file`] with contents at hand.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |file| file.write_all(bytes).map_err(Error::io(path)))
}

/// A directory filled beside its final place and then moved there as a whole.
pub struct AtomicDir {
    temp: TempDir,
    target: PathBuf,
}

impl AtomicDir {
    /// Starts an empty directory that [`commit`](Self::commit) will move to `target`; dropped before, it vanishes.
    pub fn create(target: &Path) -> Result<Self> {
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".tmp-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let temp = builder.tempdir_in(parent).map_err(Error::io(parent))?;
        Ok(Self { temp, target: target.to_owned() })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Makes the files durable and puts the directory in place. A directory already there is replaced; its files
    /// that have no counterpart in the new one are kept.
    ///
    /// On Linux the two directories are exchanged in one step. Elsewhere, and on file systems without that
    /// operation, there is a moment between two renames in which `target` does not exist.
    pub fn commit(self) -> Result<()> {
        let Self { temp, target } = self;
        sync_files(temp.path())?;
        if target.is_dir() {
            link_others(&target, temp.path())?;
            exchange(temp.path(), &target)?;
            if let Err(error) = keep_others(temp.path(), &target) {
                // What did not get across must not go with the old directory.
                let _ = temp.keep();
                return Err(error);
            }
        } else {
            fs::rename(temp.path(), &target).map_err(Error::io(&target))?;
        }
        sync_dir(parent(&target))
        // What is left at the temporary name (the old directory, or nothing) goes when `temp` is dropped.
    }
}

fn exchange(new: &Path, target: &Path) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    let aside = new.with_extension("old");
    fs::rename(target, &aside).map_err(Error::io(target))?;
    if let Err(e) = fs::rename(new, target) {
        fs::rename(&aside, target).map_err(Error::io(target))?;
        return Err(Error::io(target)(e));
    }
    fs::rename(&aside, new).map_err(Error::io(&aside))
}

/// Gives files of `old` that `new` does not have a name in `new`, too, so that whoever dies after the exchange loses
/// none of them. What cannot be linked, such as a directory, is left to [`keep_others`].
fn link_others(old: &Path, new: &Path) -> Result<()> {
    for_others(old, new, |from, to| {
        let _ = fs::hard_link(from, to);
        Ok(())
    })
}

/// Moves entries of `old` that `new` does not have into `new`.
fn keep_others(old: &Path, new: &Path) -> Result<()> {
    for_others(old, new, |from, to| fs::rename(from, to).map_err(Error::io(to)))
}

fn for_others(old: &Path, new: &Path, put: impl Fn(&Path, &Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(old).map_err(Error::io(old))? {
        let entry = entry.map_err(Error::io(old))?;
        let to = new.join(entry.file_name());
        match fs::symlink_metadata(&to) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => put(&entry.path(), &to)?,
            // A file that cannot be looked at must not be replaced by the old one of its name.
            Err(e) => return Err(Error::io(&to)(e)),
        }
    }
    sync_dir(new)
}

fn sync_files(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io(&path))?;
    }
    sync_dir(dir)
}

/// A rename is durable once its directory is.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io(dir))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| p.as_os_str() != OsStr::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn a_directory_is_replaced_and_foreign_files_stay() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("adapter");
        for version in ["one", "two"] {
            let dir = AtomicDir::create(&target).unwrap();
            put(dir.path(), "weights", version);
            dir.commit().unwrap();
            assert_eq!(fs::read_to_string(target.join("weights")).unwrap(), version);
            put(&target, "notes.txt", "mine");
        }
        let dir = AtomicDir::create(&target).unwrap();
        put(dir.path(), "weights", "three");
        dir.commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("weights")).unwrap(), "three");
        assert_eq!(fs::read_to_string(target.join("notes.txt")).unwrap(), "mine");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing temporary is left");
    }

    #[test]
    fn foreign_files_have_a_name_in_both_before_one_takes_the_place_of_the_other() {
        let root = tempfile::tempdir().unwrap();
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        for dir in [&old, &new, &old.join("more")] {
            fs::create_dir(dir).unwrap();
        }
        put(&old, "weights", "old");
        put(&new, "weights", "new");
        put(&old, "notes.txt", "mine");
        put(&old.join("more"), "notes.txt", "mine, too");
        link_others(&old, &new).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        for dir in [&old, &new] {
            assert_eq!(read(&dir.join("notes.txt")), "mine");
        }
        assert_eq!(read(&new.join("weights")), "new");
        keep_others(&old, &new).unwrap();
        assert_eq!(read(&new.join("more/notes.txt")), "mine, too");
        assert_eq!(read(&old.join("weights")), "old");
    }

    #[test]
    fn an_abandoned_directory_and_a_failed_write_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("f");
        fs::write(&file, "old").unwrap();
        drop(AtomicDir::create(&root.path().join("adapter")).unwrap());
        write_file(&file, |w| {
            w.write_all(b"half").unwrap();
            Err(Error::Lora("stop".into()))
        })
        .unwrap_err();
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
