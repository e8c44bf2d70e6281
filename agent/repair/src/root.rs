//! Files of the guest, opened beneath its root only.
//!
//! A guest's symbolic links are its own: /etc/fstab may point to /srv/fstab or to our own /etc/shadow. Every path
//! goes through openat2 with RESOLVE_IN_ROOT, so that links and `..` end at the guest's root as they would for itself.

use std::fs::{File, Metadata, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{During, Error, Result};

/// Entries read of one directory at most; more is refused.
const MAX_ENTRIES: usize = 10_000;

/// The root of a mounted guest.
#[derive(Debug)]
pub struct GuestRoot {
    directory: File,
    path: PathBuf,
}

impl GuestRoot {
    /// The guest whose / is mounted at `path`, which must be absolute and without links.
    pub fn new(path: &Path) -> Result<Self> {
        let directory = File::open(path).during(|| format!("opening {}", path.display()))?;
        Ok(Self { directory, path: path.to_path_buf() })
    }

    /// Where it is mounted on this machine.
    pub fn mounted_at(&self) -> &Path {
        &self.path
    }

    /// Opens a path of the guest; `None` when it does not exist.
    pub fn open(&self, path: &str, flags: OFlag) -> Result<Option<File>> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&self.directory, path, how) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(None),
            Err(e) => Err(Error::io(format!("opening {path} of the guest"), e)),
        }
    }

    /// What a path leads to, links followed; `None` when it does not exist.
    pub fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        let Some(file) = self.open(path, OFlag::O_PATH)? else { return Ok(None) };
        file.metadata().during(|| format!("looking at {path} of the guest")).map(Some)
    }

    /// Whether a path leads to something.
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.metadata(path)?.is_some())
    }

    /// Whether a path leads to a directory.
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        Ok(self.metadata(path)?.is_some_and(|m| m.is_dir()))
    }

    /// A regular file, open for reading; `None` when there is none.
    pub fn regular(&self, path: &str) -> Result<Option<File>> {
        // Looked at before it is opened: opening a pipe or a device of the guest has effects.
        if !self.metadata(path)?.is_some_and(|m| m.is_file()) {
            return Ok(None);
        }
        self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK)
    }

    /// The content of a regular file of at most `limit` bytes; `None` when there is none.
    pub fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.regular(path)? else { return Ok(None) };
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).during(|| format!("reading {path} of the guest"))?;
        if content.len() as u64 > limit {
            return Err(Error::Replica(format!("{path} of the guest is larger than {limit} bytes")));
        }
        Ok(Some(content))
    }

    /// Names in a directory, sorted; empty when there is none.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        if !self.is_directory(path)? {
            return Ok(Vec::new());
        }
        let Some(directory) = self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let mut directory =
            Dir::from_fd(directory.into()).during(|| format!("listing {path} of the guest"))?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry.during(|| format!("listing {path} of the guest"))?;
            // A name that is no UTF-8 cannot be one that matters here.
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_string());
            }
            if names.len() > MAX_ENTRIES {
                return Err(Error::Replica(format!(
                    "{path} of the guest holds more than {MAX_ENTRIES} files"
                )));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes a directory and its parents, root's, 0755 (`mode` for the last).
    pub fn create_directory(&self, path: &str, mode: u32) -> Result<()> {
        if path.is_empty() || self.is_directory(path)? {
            return Ok(());
        }
        let (parent, name) = split(path)?;
        self.create_directory(parent, 0o755)?;
        let parent_directory = self.directory(parent)?;
        match mkdirat(&parent_directory, name, Mode::from_bits_truncate(mode)) {
            Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
            Err(e) => Err(Error::io(format!("making {path} on the guest"), e)),
        }
    }

    /// Replaces a file, or makes it, in one step: no reader ever sees half of it. Links are followed to what they
    /// name. Mode, owner and attributes come from what was there, else it is root's with `mode`.
    pub fn replace(&self, path: &str, content: &mut dyn Read, mode: u32) -> Result<()> {
        let what = || format!("writing {path} of the guest");
        let old = self.regular(path)?;
        let real = self.real(path)?;
        let (parent, name) = split(&real)?;
        let directory = self.directory(parent)?;
        let temporary = format!(".gantry-{}.tmp", std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let _ = unlinkat(&directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        let mut file: File = openat(&directory, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))
            .during(what)?
            .into();
        let written = (|| -> Result<()> {
            std::io::copy(content, &mut file).during(what)?;
            file.flush().during(what)?;
            match &old {
                Some(old) => copy_attributes(old, &file).during(what)?,
                // vfat knows no modes; what it refuses does not matter there.
                None => file
                    .set_permissions(Permissions::from_mode(mode))
                    .or_else(ignore_unsupported)
                    .during(what)?,
            }
            file.sync_all().during(what)?;
            renameat(&directory, temporary.as_str(), &directory, name).during(what)?;
            directory.sync_all().during(what)
        })();
        if written.is_err() {
            let _ = unlinkat(&directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) -> Result<()> {
        let real = self.real(path)?;
        let (parent, name) = split(&real)?;
        let directory = self.directory(parent)?;
        unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir)
            .during(|| format!("removing {path} of the guest"))?;
        directory.sync_all().during(|| format!("removing {path} of the guest"))
    }

    /// The path with every link followed, as the guest would see it; the path itself when nothing is there.
    pub fn real(&self, path: &str) -> Result<String> {
        let Some(file) = self.open(path, OFlag::O_PATH)? else { return Ok(path.to_string()) };
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let target = std::fs::read_link(&link).during(|| format!("following {path} of the guest"))?;
        let below = target.strip_prefix(&self.path).ok().and_then(Path::to_str);
        below.map(|b| format!("/{b}")).ok_or_else(|| {
            Error::Replica(format!("{path} of the guest leads out of it, to {}", target.display()))
        })
    }

    fn directory(&self, path: &str) -> Result<File> {
        let found =
            self.open(if path.is_empty() { "/" } else { path }, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        found.ok_or_else(|| Error::Replica(format!("{path} does not exist on the guest")))
    }
}

/// Mode, owner and extended attributes; what the filesystem cannot hold is left out.
pub fn copy_attributes(from: &File, to: &File) -> std::io::Result<()> {
    use xattr::FileExt;
    let meta = from.metadata()?;
    fchown(to, Some(meta.uid()), Some(meta.gid())).or_else(ignore_unsupported)?;
    to.set_permissions(Permissions::from_mode(meta.mode() & 0o7777)).or_else(ignore_unsupported)?;
    let names = match from.list_xattr() {
        Ok(names) => names.collect(),
        Err(e) if e.kind() == ErrorKind::Unsupported => Vec::new(),
        Err(e) => return Err(e),
    };
    for name in names {
        if let Some(value) = from.get_xattr(&name)? {
            to.set_xattr(&name, &value).or_else(ignore_unsupported)?;
        }
    }
    Ok(())
}

fn ignore_unsupported(e: std::io::Error) -> std::io::Result<()> {
    match e.kind() {
        ErrorKind::Unsupported | ErrorKind::PermissionDenied => Ok(()),
        _ => Err(e),
    }
}

fn split(path: &str) -> Result<(&str, &str)> {
    path.trim_end_matches('/')
        .rsplit_once('/')
        .filter(|(_, name)| !name.is_empty() && *name != "..")
        .ok_or_else(|| Error::Replica(format!("{path:?} names no file of the guest")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn guest() -> (tempfile::TempDir, GuestRoot) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let root = GuestRoot::new(&directory.path().canonicalize().unwrap()).unwrap();
        (directory, root)
    }

    #[test]
    fn links_end_at_the_guests_root() {
        let (directory, root) = guest();
        symlink("/etc/real", directory.path().join("etc/absolute")).unwrap();
        symlink("../../../../../../etc/real", directory.path().join("etc/up")).unwrap();
        assert_eq!(root.read("/etc/absolute", 10).unwrap(), None, "our own /etc is not seen");
        std::fs::write(directory.path().join("etc/real"), "guest").unwrap();
        for name in ["/etc/absolute", "/etc/up", "/../etc/real"] {
            assert_eq!(root.read(name, 10).unwrap().unwrap(), b"guest", "{name}");
        }
        assert_eq!(root.real("/etc/up").unwrap(), "/etc/real");
    }

    #[test]
    fn replacing_goes_through_links_and_keeps_mode() {
        let (directory, root) = guest();
        let real = directory.path().join("etc/real");
        std::fs::write(&real, "old").unwrap();
        std::fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        symlink("real", directory.path().join("etc/link")).unwrap();
        root.replace("/etc/link", &mut &b"new"[..], 0o644).unwrap();
        assert!(directory.path().join("etc/link").is_symlink());
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert_eq!(real.metadata().unwrap().mode() & 0o777, 0o640);
        assert_eq!(root.list("/etc").unwrap(), ["link", "real"], "no temporary stays");
    }

    #[test]
    fn a_file_over_the_limit_is_an_error() {
        let (directory, root) = guest();
        std::fs::write(directory.path().join("etc/big"), "12345").unwrap();
        assert!(root.read("/etc/big", 4).is_err());
    }

    #[test]
    fn a_pipe_is_no_file() {
        let (directory, root) = guest();
        nix::unistd::mkfifo(&directory.path().join("etc/pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(root.read("/etc/pipe", 4).unwrap(), None, "and reading it does not hang");
    }

    #[test]
    fn directories_are_made_beneath() {
        let (_directory, root) = guest();
        root.create_directory("/var/lib/gantry/x", 0o700).unwrap();
        root.replace("/var/lib/gantry/x/m", &mut &b"1"[..], 0o600).unwrap();
        root.remove("/var/lib/gantry/x/m").unwrap();
        assert!(!root.exists("/var/lib/gantry/x/m").unwrap());
    }
}
