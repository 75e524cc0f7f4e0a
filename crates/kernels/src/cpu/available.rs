//! Memory that the process can still have.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Bytes that can still be had without the system writing others out: the machine's, or less where a control group
/// (a container's, a batch system's) allows less. `None` where the system does not tell.
pub(super) fn available() -> Option<usize> {
    below(Path::new("/"))
}

/// The same of a system whose files are below `root`.
fn below(root: &Path) -> Option<usize> {
    let machine = machine(root);
    groups(root).into_iter().filter_map(|group| group.available()).chain(machine).min()
}

fn machine(root: &Path) -> Option<usize> {
    let text = read_to_string(root.join("proc/meminfo")).ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(kibibytes.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

/// A control group's directory, and its files' names in one of the two versions
/// (the kernel's admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst).
struct Group {
    dir: PathBuf,
    limit: &'static str,
    usage: &'static str,
    file_pages: [&'static str; 2],
}

impl Group {
    fn v1(dir: PathBuf) -> Self {
        let file_pages = ["total_inactive_file", "total_active_file"];
        Self { dir, limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", file_pages }
    }

    fn v2(dir: PathBuf) -> Self {
        let file_pages = ["inactive_file", "active_file"];
        Self { dir, limit: "memory.max", usage: "memory.current", file_pages }
    }

    /// What its limit leaves; pages of files make room. `None` without a limit.
    fn available(&self) -> Option<usize> {
        let number = |name| read_to_string(self.dir.join(name)).ok()?.trim().parse::<usize>().ok();
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        let pages = |line: &str| {
            let (name, bytes) = line.split_once(' ')?;
            self.file_pages.contains(&name).then(|| bytes.trim().parse::<usize>().ok())?
        };
        let reclaimable: usize = stat.lines().filter_map(pages).sum();
        Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
    }
}

/// The process's groups and all above them, as far as they can be seen: a container sees its own as the topmost.
fn groups(root: &Path) -> Vec<Group> {
    let mount = root.join("sys/fs/cgroup");
    let text = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    lines
        .flat_map(|(controllers, path)| {
            let (top, new): (_, fn(PathBuf) -> Group) = match controllers {
                "" => (mount.clone(), Group::v2),
                list if list.split(',').any(|name| name == "memory") => {
                    (mount.join("memory"), Group::v1)
                }
                _ => return Vec::new(),
            };
            let path = Path::new(path.trim_start_matches('/'));
            path.ancestors().map(|path| new(top.join(path))).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn system(files: &[(&str, &str)]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        let meminfo = ("proc/meminfo", "MemTotal: 99 kB\nMemAvailable:    1048576 kB\n");
        for (path, text) in files.iter().chain([&meminfo]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        below(root.path())
    }

    #[test]
    fn without_limits_it_is_the_machines() {
        assert_eq!(system(&[]), Some(1024 * MIB));
        let unlimited = [
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.current", "5\n"),
        ];
        assert_eq!(system(&unlimited), Some(1024 * MIB));
        assert_eq!(below(Path::new("/nowhere")), None);
        assert!(available().unwrap() > 0);
    }

    #[test]
    fn the_tightest_group_wins_and_pages_of_files_make_room() {
        let nested = [
            ("proc/self/cgroup", "1:cpu:/x\n0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "104857600\n"),
            ("sys/fs/cgroup/a/memory.current", "73400320\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 7\ninactive_file 10485760\nactive_file 1048576\n",
            ),
            ("sys/fs/cgroup/a/b/memory.max", "536870912\n"),
            ("sys/fs/cgroup/a/b/memory.current", "0\n"),
        ];
        assert_eq!(system(&nested), Some(41 * MIB));
    }

    #[test]
    fn groups_of_the_first_version_count_too() {
        let files = [
            ("proc/self/cgroup", "4:cpu,memory:/docker/1\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "10485760\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "20971520\n"),
            ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 12582912\n"),
        ];
        assert_eq!(system(&files), Some(2 * MIB));
    }
}
