//! The archive the kernel unpacks: cpio in its "newc" form.
//!
//! A header of thirteen eight-digit hexadecimal numbers behind the magic `070701`, the name, the content, each padded to
//! four bytes; at the end an entry called `TRAILER!!!` (Documentation/driver-api/early-userspace/buffer-format.rst of the
//! kernel). Order, inode numbers, owners and times are fixed, so that the same files give the same bytes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A directory, 0755.
    Directory,
    /// A file with these permission bits.
    File {
        /// Permission bits.
        mode: u32,
        /// Its bytes.
        content: Vec<u8>,
    },
    /// A symbolic link to this.
    Link(String),
    /// A character device, 0600.
    Device {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A tree of files that becomes an archive. Paths have no leading slash.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// Puts an entry and the directories above it into place.
    ///
    /// Errors: the path is taken by something else, or leads through something that is no directory.
    pub fn put(&mut self, path: &str, entry: Entry) -> Result<()> {
        ensure!(
            !path.is_empty() && !path.split('/').any(|part| part.is_empty() || part == "." || part == ".."),
            "'{path}' is no path for an archive"
        );
        for (end, _) in path.match_indices('/') {
            match self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory) {
                Entry::Directory => {}
                _ => bail!("{path} leads through {}, which is no directory", &path[..end]),
            }
        }
        match self.entries.insert(path.to_owned(), entry.clone()) {
            Some(before) if before != entry => bail!("{path} is there twice with different content"),
            _ => Ok(()),
        }
    }

    /// Puts a file.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Result<()> {
        self.put(path, Entry::File { mode, content: content.into() })
    }

    /// Puts a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.put(path, Entry::Link(to.to_owned()))
    }

    #[cfg(test)]
    pub(super) fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The archive's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (index, (path, entry)) in self.entries.iter().enumerate() {
            let inode = u32::try_from(index + 1).context("numbering files")?;
            write(&mut bytes, inode, path, entry)?;
        }
        write(&mut bytes, 0, "TRAILER!!!", &Entry::File { mode: 0, content: Vec::new() })?;
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        Ok(bytes)
    }
}

fn write(bytes: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let trailer = inode == 0;
    let (mode, links, device, content): (u32, u32, (u32, u32), &[u8]) = match entry {
        Entry::Directory => (DIRECTORY | 0o755, 2, (0, 0), &[]),
        Entry::File { mode, content } if trailer => (*mode, 1, (0, 0), content),
        Entry::File { mode, content } => (FILE | mode, 1, (0, 0), content),
        Entry::Link(to) => (LINK | 0o777, 1, (0, 0), to.as_bytes()),
        Entry::Device { major, minor } => (CHARACTER | 0o600, 1, (*major, *minor), &[]),
    };
    let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large for cpio"))?;
    let name = u32::try_from(path.len() + 1).context("measuring a name")?;
    let numbers = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name, 0];
    bytes.extend(b"070701");
    numbers.iter().for_each(|number| bytes.extend(format!("{number:08x}").bytes()));
    bytes.extend(path.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample(reversed: bool) -> Archive {
        let mut archive = Archive::default();
        let mut entries = vec![
            ("dev/console", Entry::Device { major: 5, minor: 1 }),
            ("etc/hosts", Entry::File { mode: 0o644, content: b"hi".to_vec() }),
            ("init", Entry::Link("bin/gantry".to_owned())),
        ];
        if reversed {
            entries.reverse();
        }
        entries.into_iter().for_each(|(path, entry)| archive.put(path, entry).unwrap());
        archive
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, "hi").unwrap();
        let mut expected = b"070701000000010000\
            81a40000000000000000000000010000000000000002000000000000000000000000000000000000000200000000a\0"
            .to_vec();
        expected.extend(b"hi\0\0");
        expected.extend(
            b"0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000000000",
        );
        expected.extend(b"0000000b00000000TRAILER!!!\0\0\0\0");
        expected.resize(512, 0);
        assert_eq!(String::from_utf8_lossy(&archive.encode().unwrap()), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn the_order_of_putting_does_not_matter() {
        assert_eq!(sample(false).encode().unwrap(), sample(true).encode().unwrap());
    }

    #[test]
    fn the_cpio_program_reads_it() {
        let mut cpio = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is among the packages of scripts/setup");
        std::io::Write::write_all(&mut cpio.stdin.take().unwrap(), &sample(false).encode().unwrap()).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<String> =
            listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
                "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 etc",
                "-rw-r--r-- 1 0 0 2 Jan 1 1970 etc/hosts",
                "lrwxrwxrwx 1 0 0 10 Jan 1 1970 init -> bin/gantry",
            ]
        );
    }

    #[test]
    fn clashes_and_bad_paths_are_errors() {
        let mut archive = sample(false);
        for (path, entry, problem) in [
            ("etc/hosts", Entry::Link("x".to_owned()), "twice"),
            ("init/x", Entry::Directory, "leads through init"),
            ("/etc", Entry::Directory, "no path"),
            ("a/../b", Entry::Directory, "no path"),
            ("", Entry::Directory, "no path"),
        ] {
            let error = archive.put(path, entry).unwrap_err().to_string();
            assert!(error.contains(problem), "{path}: {error}");
        }
        archive.put("etc", Entry::Directory).unwrap();
    }
}
