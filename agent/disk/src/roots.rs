//! Where the kernel shows itself. Parameters, so that machines can be made up in tests.

use std::fs;
use std::path::{Path, PathBuf};

/// The three trees that questions about this machine are answered from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// sysfs, normally `/sys`.
    pub sys: PathBuf,
    /// procfs, normally `/proc`.
    pub proc: PathBuf,
    /// Device nodes, normally `/dev`.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self::under(Path::new("/"))
    }
}

impl Roots {
    /// `sys`, `proc` and `dev` below `root`.
    pub fn under(root: &Path) -> Self {
        Self { sys: root.join("sys"), proc: root.join("proc"), dev: root.join("dev") }
    }

    /// The directory of a block device in sysfs, by kernel name ("sda", "cciss!c0d0").
    pub(crate) fn block(&self, name: &str) -> PathBuf {
        self.sys.join("block").join(name)
    }

    /// The node of a block device. The kernel writes '/' as '!' in names. A device-mapper volume goes by the name that a
    /// person gave it, where there is such a node.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        let volume =
            attribute(&self.block(name).join("dm/name")).map(|name| self.dev.join("mapper").join(name));
        volume.filter(|node| node.exists()).unwrap_or_else(|| self.dev.join(name.replace('!', "/")))
    }
}

/// A text attribute without its line end and padding; `None` when it is missing, unreadable or empty.
pub fn attribute(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A numeric attribute; `None` when it is missing or no number.
pub fn number(path: &Path) -> Option<u64> {
    attribute(path)?.parse().ok()
}

/// The last component a symbolic link points to: the name of a driver or subsystem.
pub fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Names in a directory, sorted; empty when it cannot be read.
pub fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
