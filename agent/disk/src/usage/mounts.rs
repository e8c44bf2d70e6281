//! Mounts, swap and loop devices, read once and asked for many devices.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Use;
use crate::error::{DiskError, Result};
use crate::inventory::DeviceNumber;
use crate::roots::{Roots, attribute, names_in};

/// What the kernel says about who uses block devices.
pub(super) struct Mounts {
    mounts: Vec<Mount>,
    swaps: Vec<String>,
    /// (loop device, backing file)
    loops: Vec<(String, String)>,
    /// (uuid, name of a member's device)
    btrfs: Vec<(String, String)>,
}

struct Mount {
    number: Option<DeviceNumber>,
    source: String,
    at: String,
}

impl Mounts {
    pub(super) fn read(roots: &Roots) -> Result<Self> {
        let path = roots.proc.join("self/mountinfo");
        let text = fs::read_to_string(&path)
            .map_err(|source| DiskError::io(path.display().to_string(), "reading the mounts", source))?;
        // No /proc/swaps: a kernel without swap.
        let swaps = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
        let loops = names_in(&roots.sys.join("block"))
            .into_iter()
            .filter(|name| name.starts_with("loop"))
            .filter_map(|name| Some((attribute(&roots.block(&name).join("loop/backing_file"))?, name)))
            .map(|(file, name)| (name, file))
            .collect();
        let folder = roots.sys.join("fs/btrfs");
        let btrfs = names_in(&folder)
            .into_iter()
            .flat_map(|uuid| {
                let members = names_in(&folder.join(&uuid).join("devices"));
                members.into_iter().map(move |member| (uuid.clone(), member))
            })
            .collect();
        Ok(Self {
            mounts: text.lines().filter_map(mount).collect(),
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|line| line.split_whitespace().next())
                .map(unescape)
                .collect(),
            loops,
            btrfs,
        })
    }

    /// Appends the uses of one device, known by kernel name, number and node.
    pub(super) fn uses_of(&self, name: &str, number: Option<DeviceNumber>, node: &str, uses: &mut Vec<Use>) {
        let device = node.to_owned();
        let mut mounted = false;
        for mount in &self.mounts {
            if (number.is_some() && mount.number == number) || is_node(&mount.source, node, number) {
                mounted = true;
                uses.push(Use::Mounted { device: device.clone(), at: mount.at.clone() });
            }
        }
        for (uuid, _) in self.btrfs.iter().filter(|(_, member)| member == name && !mounted) {
            uses.push(Use::Held { device: device.clone(), by: format!("the mounted btrfs {uuid}") });
        }
        if self.swaps.iter().any(|swap| is_node(swap, node, number)) {
            uses.push(Use::Swap { device: device.clone() });
        }
        for (by, _) in self.loops.iter().filter(|(_, file)| is_node(file, node, number)) {
            uses.push(Use::Loop { device: device.clone(), by: by.clone() });
        }
    }
}

impl Mounts {
    /// The loop devices on a file, by whatever path they were given it.
    pub(super) fn loops_on(&self, file: &Path) -> Vec<String> {
        let same = |other: &str| match (fs::metadata(file), fs::metadata(other)) {
            (Ok(one), Ok(two)) => (one.dev(), one.ino()) == (two.dev(), two.ino()),
            _ => false,
        };
        self.loops.iter().filter(|(_, backing)| same(backing)).map(|(by, _)| by.clone()).collect()
    }
}

/// The sources of the mounts whose files report the device number `of`.
pub(crate) fn mount_sources(roots: &Roots, of: DeviceNumber) -> Result<Vec<String>> {
    let mounts = Mounts::read(roots)?.mounts;
    Ok(mounts.into_iter().filter(|mount| mount.number == Some(of)).map(|mount| mount.source).collect())
}

/// Whether the path `text` is the device: by its name, or because it is another node with the same number.
fn is_node(text: &str, node: &str, number: Option<DeviceNumber>) -> bool {
    if text == node {
        return true;
    }
    let (Some(number), true) = (number, text.starts_with('/')) else {
        return false;
    };
    DeviceNumber::of_node(Path::new(text)) == Some(number)
}

/// One line of mountinfo: id, parent, number, root, place, options, optional fields, "-", type, source, options
/// (proc(5)).
fn mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let number = DeviceNumber::parse(left.nth(2)?);
    let at = unescape(left.nth(1)?);
    let source = unescape(right.split(' ').nth(1)?);
    Some(Mount { number, source, at })
}

/// Undoes the kernel's `\040` for space, tab, line end and backslash.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        let code =
            tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_garbage_survives() {
        for (text, expected) in
            [("a\\040b", "a b"), ("\\134", "\\"), ("\\9", "\\9"), ("\\", "\\"), ("ä\\011", "ä\t")]
        {
            assert_eq!(unescape(text), expected);
        }
    }

    #[test]
    fn lines_that_are_no_mounts_are_skipped() {
        for line in ["", "1 2 3", "1 2 8:1 / /", "1 2 8:1 - ext4", " - "] {
            assert!(mount(line).is_none(), "{line:?}");
        }
    }
}
