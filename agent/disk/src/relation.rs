//! Whether two ends of a copy are, contain or lie on each other (law 2).
//!
//! Everything a block device or file lies on is followed down: a file on its filesystem's device, a loop device on its
//! file, a device-mapper or md device on its slaves, a partition on its disk. If one end is found below the other, a
//! copy would eat itself. Two partitions of one disk, or two files of one filesystem, are strangers.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{DiskError, Result};
use crate::inventory::DeviceNumber;
use crate::roots::{Roots, attribute, names_in};

/// How two ends are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Not at all.
    Strangers,
    /// They are the same device or file.
    Same,
    /// The first lies on the second: it is a partition of it, a file on its filesystem, a volume made of it.
    FirstOnSecond,
    /// The second lies on the first.
    SecondOnFirst,
}

impl Relation {
    /// A sentence that refuses the copy, or `None` for strangers.
    pub fn refusal(self, first: &Path, second: &Path) -> Option<String> {
        let (first, second) = (first.display(), second.display());
        match self {
            Self::Strangers => None,
            Self::Same => Some(format!("{first} and {second} are the same thing")),
            Self::FirstOnSecond => Some(format!("{first} lies on {second}")),
            Self::SecondOnFirst => Some(format!("{second} lies on {first}")),
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strangers => "nothing in common",
            Self::Same => "the same",
            Self::FirstOnSecond => "the first lies on the second",
            Self::SecondOnFirst => "the second lies on the first",
        })
    }
}

/// What something is, whatever path led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Device(DeviceNumber),
    File { device: u64, inode: u64 },
}

/// The relation of two existing ends. A target file that does not exist yet is judged by its folder.
pub fn relation(roots: &Roots, first: &Path, second: &Path) -> Result<Relation> {
    let (a, b) = (below(roots, first)?, below(roots, second)?);
    Ok(match (a.first(), b.first()) {
        (Some(x), Some(y)) if x == y => Relation::Same,
        (_, Some(y)) if a.contains(y) => Relation::FirstOnSecond,
        (Some(x), _) if b.contains(x) => Relation::SecondOnFirst,
        _ => Relation::Strangers,
    })
}

/// The end itself, then everything it lies on.
fn below(roots: &Roots, path: &Path) -> Result<Vec<Thing>> {
    let mut found = Vec::new();
    let mut queue = VecDeque::from([thing(path)?]);
    while let Some(next) = queue.pop_front() {
        if found.contains(&next) {
            continue;
        }
        found.push(next);
        match next {
            Thing::File { device, .. } => queue.extend(devices_of_filesystem(roots, device)?),
            Thing::Device(number) => queue.extend(under_device(roots, number)),
        }
    }
    Ok(found)
}

fn thing(path: &Path) -> Result<Thing> {
    let missing = |error| DiskError::io(path.display().to_string(), "asking what it is", error);
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // Its own inode is to come; no other thing has the number 0.
            let device = fs::metadata(folder).map_err(missing)?.dev();
            return Ok(Thing::File { device, inode: 0 });
        }
        Err(error) => return Err(missing(error)),
    };
    Ok(if meta.file_type().is_block_device() {
        Thing::Device(number(meta.rdev()))
    } else {
        Thing::File { device: meta.dev(), inode: meta.ino() }
    })
}

fn number(device: u64) -> DeviceNumber {
    DeviceNumber { major: libc::major(device), minor: libc::minor(device) }
}

/// The block devices of the filesystem whose files report `device`. btrfs reports numbers of its own; its mount's source and
/// that one's fellow members stand for it.
fn devices_of_filesystem(roots: &Roots, device: u64) -> Result<Vec<Thing>> {
    let own = number(device);
    if own.major != 0 {
        return Ok(vec![Thing::Device(own)]);
    }
    let mut things = Vec::new();
    for source in crate::usage::mount_sources(roots, own)? {
        let Ok(meta) = fs::metadata(&source) else { continue };
        if !meta.file_type().is_block_device() {
            continue;
        }
        let member = number(meta.rdev());
        things.push(Thing::Device(member));
        let folder = roots.sys.join("fs/btrfs");
        for uuid in names_in(&folder) {
            let members: Vec<_> = names_in(&folder.join(&uuid).join("devices"))
                .iter()
                .filter_map(|name| {
                    DeviceNumber::parse(&attribute(
                        &folder.join(&uuid).join("devices").join(name).join("dev"),
                    )?)
                })
                .collect();
            if members.contains(&member) {
                things.extend(members.into_iter().map(Thing::Device));
            }
        }
    }
    Ok(things)
}

fn under_device(roots: &Roots, number: DeviceNumber) -> Vec<Thing> {
    let link = roots.sys.join(format!("dev/block/{}:{}", number.major, number.minor));
    let Ok(folder) = fs::canonicalize(link) else {
        return Vec::new();
    };
    let device = |folder: PathBuf| DeviceNumber::parse(&attribute(&folder.join("dev"))?).map(Thing::Device);
    let mut things = Vec::new();
    if folder.join("partition").exists() {
        things.extend(folder.parent().map(Path::to_path_buf).and_then(device));
    }
    let slaves = folder.join("slaves");
    things.extend(names_in(&slaves).into_iter().filter_map(|name| device(slaves.join(name))));
    if let Some(file) = attribute(&folder.join("loop/backing_file")) {
        things.extend(thing(Path::new(&file)).ok());
    }
    things
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::fake::Machine;
    use crate::testing::{good, tool};

    fn numbers(machine: &Machine, major: u32, minor: u32) -> Vec<(u32, u32)> {
        let mut queue = VecDeque::from(under_device(&machine.roots, DeviceNumber { major, minor }));
        let mut found = Vec::new();
        while let Some(next) = queue.pop_front() {
            if let Thing::Device(number) = next {
                found.push((number.major, number.minor));
                queue.extend(under_device(&machine.roots, number));
            }
        }
        found
    }

    #[test]
    fn volumes_lead_down_to_their_disks() {
        let machine = Machine::new();
        let disk = machine.ata("sda", "8:0", "QM1");
        machine.partition(&disk, "sda2", "8:2");
        let dm = machine.device("dm-0", "virtual", "252:0", 8);
        let root = machine.roots.sys.parent().unwrap();
        machine.link(&format!("{dm}/slaves/sda2"), root.join(&disk).join("sda2"));
        assert_eq!(numbers(&machine, 252, 0), [(8, 2), (8, 0)]);
        assert_eq!(numbers(&machine, 8, 2), [(8, 0)]);
        assert_eq!(numbers(&machine, 8, 0), []);
        assert_eq!(numbers(&machine, 99, 0), []);
    }

    #[test]
    fn files_are_the_same_by_any_name_and_else_strangers() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "x").unwrap();
        fs::write(path("b"), "x").unwrap();
        fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("a"), path("soft")).unwrap();
        let roots = Roots::default();
        let of = |one: &str, other: &str| relation(&roots, &path(one), &path(other)).unwrap();
        assert_eq!(of("a", "a"), Relation::Same);
        assert_eq!(of("a", "hard"), Relation::Same);
        assert_eq!(of("soft", "a"), Relation::Same);
        assert_eq!(of("a", "b"), Relation::Strangers);
        assert_eq!(of("a", "not yet there"), Relation::Strangers);
        assert!(relation(&roots, &path("a"), Path::new("/no/such/folder/x")).is_err());
    }

    /// A filesystem on a loop device; unmounted when dropped.
    struct Mounted {
        folder: tempfile::TempDir,
        device: crate::loops::Loop,
    }

    impl Mounted {
        fn new(image: &Path) -> Self {
            crate::testing::blank(image, 8 << 20);
            good("mke2fs", &["-q", "-t", "ext4", &image.display().to_string()]);
            let device = crate::loops::Loop::attach(image, crate::loops::Shown::default()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let [node, place] = [device.node(), folder.path()].map(|path| path.display().to_string());
            good("mount", &[&node, &place]);
            Self { folder, device }
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            tool("umount", &[&self.folder.path().display().to_string()]);
        }
    }

    #[test]
    fn a_file_lies_on_the_disk_of_its_filesystem() {
        let outside = tempfile::tempdir().unwrap();
        let mounted = Mounted::new(&outside.path().join("image"));
        let (node, file) = (mounted.device.node(), mounted.folder.path().join("file"));
        fs::write(&file, "x").unwrap();
        let roots = Roots::default();
        assert_eq!(relation(&roots, &file, node).unwrap(), Relation::FirstOnSecond);
        assert_eq!(relation(&roots, node, &file).unwrap(), Relation::SecondOnFirst);
        assert_eq!(
            relation(&roots, node, &mounted.folder.path().join("new")).unwrap(),
            Relation::SecondOnFirst
        );
        assert_eq!(relation(&roots, node, &outside.path().join("new")).unwrap(), Relation::Strangers);
    }
}
