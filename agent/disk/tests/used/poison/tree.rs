//! Everything a mounted filesystem shows: names, kinds, sizes, contents, links and attributes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Path below the root to a description of what is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, String>);

impl Tree {
    /// Reads all of it.
    pub fn read(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let content = if meta.is_dir() {
                    folders.push(path.clone());
                    "folder".to_owned()
                } else if meta.is_symlink() {
                    fs::read_link(&path).unwrap().display().to_string()
                } else if meta.is_file() {
                    hash(&path)
                } else {
                    "other".to_owned()
                };
                // How large a folder is, is the driver's business (ntfs-3g changes its mind after a mount).
                let size = if meta.is_dir() { 0 } else { meta.size() };
                let attributes = attributes(&path);
                let line = format!("{:o} {} {} {content} {attributes}", meta.mode(), size, meta.nlink());
                entries.insert(path.strip_prefix(root).unwrap().to_owned(), line);
            }
        }
        Self(entries)
    }

    /// Only the contents of its files.
    pub fn contents(root: &Path) -> Self {
        let hash = |(name, line): (PathBuf, String)| (name, line.split(' ').nth(3).unwrap_or("").to_owned());
        Self(Self::read(root).0.into_iter().map(hash).collect())
    }

    /// How many entries.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The first entry that is not the same.
    pub fn difference(&self, other: &Self) -> String {
        let names = self.0.keys().chain(other.0.keys());
        names
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .map(|name| format!("{}: {:?}, then {:?}", name.display(), self.0.get(name), other.0.get(name)))
            .next()
            .unwrap_or_default()
    }
}

fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut fs::File::open(path).unwrap(), &mut hasher).unwrap();
    hasher.finalize().to_hex().to_string()
}

fn attributes(path: &Path) -> String {
    let mut names: Vec<_> = xattr::list(path).map(Iterator::collect).unwrap_or_default();
    names.sort();
    let value = |name| xattr::get(path, name).unwrap_or_default().unwrap_or_default();
    names.iter().map(|name| format!("{name:?}={} ", blake3::hash(&value(name)).to_hex())).collect()
}
