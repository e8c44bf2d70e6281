//! What is dear to make is kept outside the tree, under a name that holds a hash of everything it was made from.
//!
//! An entry is a directory that is complete or not there: it is built under another name and renamed. A lock file lets one
//! process build while others wait for it. Entries of older recipes stay until someone removes the cache; nothing else is
//! lost by removing it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directory of all caches: `GANTRY_CACHE`, by default `~/.cache/gantry`.
///
/// # Errors
/// When neither `GANTRY_CACHE` nor `HOME` is set.
pub fn directory() -> Result<PathBuf> {
    if let Some(place) = std::env::var_os("GANTRY_CACHE") {
        return Ok(place.into());
    }
    let home = std::env::var_os("HOME").context("neither GANTRY_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/gantry"))
}

/// A key made from the inputs of an entry.
#[derive(Debug, Default)]
pub struct Key(blake3::Hasher);

impl Key {
    /// The key with one more input.
    #[must_use]
    pub fn with(mut self, input: &[u8]) -> Self {
        self.0.update(&(input.len() as u64).to_le_bytes()).update(input);
        self
    }

    /// The key with all files below `directory`: their names, whether they can be executed, and their bytes.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn with_files(mut self, directory: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .with_context(|| format!("listing {}", directory.display()))?;
        entries.sort();
        for entry in entries {
            let name = entry.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
            self = self.with(&name);
            if entry.is_dir() {
                self = self.with_files(&entry)?;
            } else {
                let read = || {
                    Ok::<_, std::io::Error>((std::fs::read(&entry)?, entry.metadata()?.permissions().mode()))
                };
                let (bytes, mode) = read().with_context(|| format!("reading {}", entry.display()))?;
                self = self.with(&[u8::from(mode & 0o100 != 0)]).with(&bytes);
            }
        }
        Ok(self)
    }

    /// Sixteen hexadecimal digits.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.finalize().to_hex()[..16].to_string()
    }
}

/// The entry `name` for `key`; `build` fills an empty directory when there is none yet.
///
/// # Errors
/// When building fails; nothing is kept then.
pub fn entry(name: &str, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    entry_in(&directory()?, name, key, build)
}

fn entry_in(cache: &Path, name: &str, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let finished = cache.join(format!("{name}-{}", key.text()));
    if finished.exists() {
        return Ok(finished);
    }
    let parent = finished.parent().unwrap_or(cache);
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let lock_path = cache.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| format!("making {}", lock_path.display()))?;
    lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
    // Someone else may have built it while this process waited for the lock.
    if !finished.exists() {
        let unfinished = cache.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            std::fs::remove_dir_all(&unfinished)
                .with_context(|| format!("removing {}", unfinished.display()))?;
        }
        std::fs::create_dir(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
        build(&unfinished).with_context(|| format!("building {}", finished.display()))?;
        std::fs::rename(&unfinished, &finished)
            .with_context(|| format!("finishing {}", finished.display()))?;
    }
    Ok(finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_built_once_and_a_failed_one_is_not_kept() {
        let cache = tempfile::tempdir().unwrap();
        let key = || Key::default().with(b"recipe");
        let failed = entry_in(cache.path(), "sub/thing", &key(), |at| {
            std::fs::write(at.join("half"), "")?;
            anyhow::bail!("out of paper")
        });
        assert!(format!("{:#}", failed.unwrap_err()).contains("out of paper"));
        let built =
            entry_in(cache.path(), "sub/thing", &key(), |at| Ok(std::fs::write(at.join("whole"), "")?))
                .unwrap();
        assert!(built.join("whole").exists() && !built.join("half").exists());
        let again = entry_in(cache.path(), "sub/thing", &key(), |_| anyhow::bail!("built twice")).unwrap();
        assert_eq!(built, again);
    }

    #[test]
    fn the_key_changes_with_every_name_byte_and_boundary() {
        let directory = tempfile::tempdir().unwrap();
        let key = || Key::default().with_files(directory.path()).unwrap().text();
        std::fs::write(directory.path().join("a"), "1").unwrap();
        let first = key();
        std::fs::write(directory.path().join("a"), "2").unwrap();
        let second = key();
        std::fs::rename(directory.path().join("a"), directory.path().join("b")).unwrap();
        assert!(first != second && second != key());
        assert_ne!(
            Key::default().with(b"ab").with(b"c").text(),
            Key::default().with(b"a").with(b"bc").text()
        );
    }
}
