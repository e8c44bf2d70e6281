//! What was there before: kept on the replica itself, so that it is found wherever the replica goes.
//!
//! `/var/lib/gantry/ID/manifest.json` lists each file that repair touched: what it was (content below `files/`, mode,
//! owner, times, extended attributes, or that there was none) and the digest of what repair left there. Undoing
//! restores a file only where that digest still holds: what was changed since is somebody's work.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use xattr::FileExt;

use crate::edit::digest;
use crate::error::{During, Error, Result};
use crate::facts::PartitionRef;
use crate::root::GuestRoot;

/// Where manifests lie on the guest.
pub const HOME: &str = "/var/lib/gantry";
/// A file that is kept may have this many bytes at most.
const MAX_FILE: u64 = 1 << 30;

/// The record of one repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// Digest of the facts the plan was made from.
    pub facts: String,
    /// Version of Gantry.
    pub made_by: String,
    /// `applying`, `done` or `undone`.
    pub state: String,
    /// Each touched file once, in the order it was first touched.
    pub files: Vec<Original>,
    /// Sectors that were written past any file.
    pub sectors: Vec<OriginalSector>,
    /// What the guest's programs said.
    pub output: String,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Path in the guest.
    pub path: String,
    /// What was there; `None` for nothing.
    pub was: Option<Kept>,
    /// BLAKE3 of what repair left there; `None` for nothing.
    pub now: Option<String>,
}

/// A kept file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Where, below the manifest's directory.
    pub at: String,
    /// BLAKE3 of the content.
    pub digest: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes, values in hex.
    pub xattrs: BTreeMap<String, String>,
}

/// Bytes of a partition as they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalSector {
    /// Where.
    pub partition: PartitionRef,
    /// The swap file, when it was in one.
    pub file: Option<String>,
    /// Byte offset in the partition or file.
    pub offset: u64,
    /// The bytes, in hex.
    pub was: String,
}

/// A manifest being written.
#[derive(Debug)]
pub struct Keeper<'a> {
    guest: &'a GuestRoot,
    directory: String,
    /// What was kept so far.
    pub manifest: Manifest,
}

impl<'a> Keeper<'a> {
    /// Begins a record. `id` names it; where it exists already, a number is added.
    pub fn begin(guest: &'a GuestRoot, id: &str, facts: &str) -> Result<Self> {
        let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !plain {
            return Err(Error::Replica(format!(
                "{id:?} is no name for a record: letters, digits, - and _ only"
            )));
        }
        let mut directory = format!("{HOME}/{id}");
        let mut number = 1;
        while guest.exists(&directory)? {
            number += 1;
            directory = format!("{HOME}/{id}-{number}");
        }
        guest.create_directory(&format!("{directory}/files"), 0o700)?;
        let manifest = Manifest {
            format: 1,
            facts: facts.to_string(),
            made_by: format!("gantry {}", env!("CARGO_PKG_VERSION")),
            state: String::from("applying"),
            ..Manifest::default()
        };
        let keeper = Self { guest, directory, manifest };
        keeper.write()?;
        Ok(keeper)
    }

    /// Where on the guest the record lies.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// Keeps a file before it is touched for the first time.
    pub fn keep(&mut self, path: &str) -> Result<()> {
        if self.manifest.files.iter().any(|f| f.path == path) {
            return Ok(());
        }
        let was = self.guest.regular(path)?.map(|file| self.copy(path, file)).transpose()?;
        let now = was.as_ref().map(|k| k.digest.clone());
        self.manifest.files.push(Original { path: path.to_string(), was, now });
        self.write()
    }

    fn copy(&self, path: &str, file: File) -> Result<Kept> {
        let what = || format!("keeping {path} of the guest");
        let meta = file.metadata().during(what)?;
        if meta.len() > MAX_FILE {
            return Err(Error::Replica(format!(
                "{path} of the guest is too large to keep ({} bytes)",
                meta.len()
            )));
        }
        let at = format!("files/{}", self.manifest.files.len());
        let mut hasher = blake3::Hasher::new();
        let mut tee = Tee { inner: &file, hasher: &mut hasher };
        self.guest.replace(&format!("{}/{at}", self.directory), &mut tee, 0o600)?;
        let mut xattrs = BTreeMap::new();
        // A filesystem without attributes (vfat) has none to keep.
        for name in file.list_xattr().map(Iterator::collect).unwrap_or_else(|_| Vec::new()) {
            let value = file.get_xattr(&name).during(what)?.unwrap_or_default();
            xattrs.insert(name.to_string_lossy().into_owned(), hex(&value));
        }
        Ok(Kept {
            at,
            digest: hasher.finalize().to_hex().to_string(),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            xattrs,
        })
    }

    /// Notes what a touched file is now.
    pub fn note(&mut self, path: &str) -> Result<()> {
        let now = current(self.guest, path)?;
        if let Some(file) = self.manifest.files.iter_mut().find(|f| f.path == path) {
            file.now = now;
        }
        self.write()
    }

    /// Keeps bytes that are about to be written over.
    pub fn keep_bytes(
        &mut self,
        partition: PartitionRef,
        file: Option<&str>,
        offset: u64,
        was: &[u8],
    ) -> Result<()> {
        let file = file.map(str::to_string);
        self.manifest.sectors.push(OriginalSector { partition, file, offset, was: hex(was) });
        self.write()
    }

    /// Ends the record.
    pub fn end(mut self) -> Result<Manifest> {
        self.manifest.state = String::from("done");
        self.write()?;
        Ok(self.manifest)
    }

    fn write(&self) -> Result<()> {
        write(self.guest, &self.directory, &self.manifest)
    }
}

fn write(guest: &GuestRoot, directory: &str, manifest: &Manifest) -> Result<()> {
    let text = serde_json::to_vec_pretty(manifest)
        .map_err(|e| Error::Replica(format!("encoding the manifest: {e}")))?;
    guest.replace(&format!("{directory}/manifest.json"), &mut &text[..], 0o600)
}

/// Digest of what a path holds now.
fn current(guest: &GuestRoot, path: &str) -> Result<Option<String>> {
    Ok(guest.read(path, MAX_FILE)?.map(|content| digest(&content)))
}

/// Takes back the newest repair that is done and not taken back yet. Returns where its record lies.
pub fn undo(guest: &GuestRoot) -> Result<String> {
    let (directory, mut manifest) = newest(guest)?;
    for file in &manifest.files {
        if current(guest, &file.path)? != file.now {
            return Err(Error::Refused(format!(
                "{} was changed after the repair: put it right by hand; its original is {directory}/{}",
                file.path,
                file.was.as_ref().map_or("nothing", |k| k.at.as_str())
            )));
        }
    }
    for file in manifest.files.iter().rev() {
        match &file.was {
            Some(kept) => restore(guest, &directory, &file.path, kept)?,
            None if guest.exists(&file.path)? => guest.remove(&file.path)?,
            None => {}
        }
    }
    manifest.state = String::from("undone");
    write(guest, &directory, &manifest)?;
    Ok(directory)
}

fn newest(guest: &GuestRoot) -> Result<(String, Manifest)> {
    let mut newest: Option<(i64, String, Manifest)> = None;
    for name in guest.list(HOME)? {
        let directory = format!("{HOME}/{name}");
        let path = format!("{directory}/manifest.json");
        let (Some(text), Some(meta)) = (guest.read(&path, 64 << 20)?, guest.metadata(&path)?) else {
            continue;
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| Error::Replica(format!("{path}: {e}")))?;
        let time = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        if manifest.state != "undone" && newest.as_ref().is_none_or(|(t, ..)| time > *t) {
            newest = Some((time, directory, manifest));
        }
    }
    newest
        .map(|(_, directory, manifest)| (directory, manifest))
        .ok_or_else(|| Error::Refused(format!("there is no repair to take back: {HOME} has none")))
}

fn restore(guest: &GuestRoot, directory: &str, path: &str, kept: &Kept) -> Result<()> {
    let what = || format!("restoring {path} of the guest");
    let missing = || Error::Replica(format!("{directory}/{} is missing", kept.at));
    let content = guest.read(&format!("{directory}/{}", kept.at), MAX_FILE)?.ok_or_else(missing)?;
    if digest(&content) != kept.digest {
        return Err(Error::Replica(format!("{directory}/{} is not what was kept", kept.at)));
    }
    guest.replace(path, &mut &content[..], kept.mode)?;
    let file = guest.open(path, OFlag::O_RDWR | OFlag::O_NOFOLLOW)?.ok_or_else(missing)?;
    // Owner before mode: changing the owner takes set-uid bits away. vfat has neither.
    let _ = std::os::unix::fs::fchown(&file, Some(kept.uid), Some(kept.gid));
    let _ = file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(kept.mode));
    for (name, value) in &kept.xattrs {
        file.set_xattr(name, &unhex(value)?).during(what)?;
    }
    let (seconds, nanoseconds) = kept.mtime;
    let since = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanoseconds).unwrap_or(0));
    file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + since)).during(what)?;
    file.sync_all().during(what)
}

struct Tee<'a> {
    inner: &'a File,
    hasher: &'a mut blake3::Hasher,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| std::str::from_utf8(pair).ok().and_then(|p| u8::from_str_radix(p, 16).ok()))
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| Error::Replica(format!("{text:?} is not hex")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn guest() -> (tempfile::TempDir, GuestRoot) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let path = directory.path().join("etc/fstab");
        std::fs::write(&path, "old\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let time = UNIX_EPOCH + Duration::new(1_000_000_000, 5);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(time))
            .unwrap();
        let root = GuestRoot::new(&directory.path().canonicalize().unwrap()).unwrap();
        (directory, root)
    }

    fn repair(guest: &GuestRoot) -> Manifest {
        let mut keeper = Keeper::begin(guest, "t", "digest").unwrap();
        for path in ["/etc/fstab", "/etc/new"] {
            keeper.keep(path).unwrap();
            guest.replace(path, &mut &b"new\n"[..], 0o644).unwrap();
            keeper.note(path).unwrap();
        }
        keeper.end().unwrap()
    }

    #[test]
    fn undo_restores_content_mode_and_time() {
        let (directory, guest) = guest();
        let manifest = repair(&guest);
        assert_eq!(manifest.files.len(), 2);
        assert_eq!(undo(&guest).unwrap(), "/var/lib/gantry/t");
        let path = directory.path().join("etc/fstab");
        let meta = path.metadata().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old\n");
        assert_eq!((meta.mode() & 0o777, meta.mtime(), meta.mtime_nsec()), (0o640, 1_000_000_000, 5));
        assert!(!directory.path().join("etc/new").exists());
        assert!(undo(&guest).unwrap_err().needs_a_human(), "nothing left to take back");
    }

    #[test]
    fn undo_leaves_later_work_alone() {
        let (directory, guest) = guest();
        repair(&guest);
        std::fs::write(directory.path().join("etc/fstab"), "mine\n").unwrap();
        assert!(undo(&guest).unwrap_err().to_string().contains("/etc/fstab was changed after the repair"));
        assert!(directory.path().join("etc/new").exists(), "nothing was touched");
    }

    #[test]
    fn a_second_record_gets_a_number() {
        let (_directory, guest) = guest();
        repair(&guest);
        assert_eq!(Keeper::begin(&guest, "t", "x").unwrap().directory(), "/var/lib/gantry/t-2");
        assert!(Keeper::begin(&guest, "../t", "x").is_err());
    }
}
