//! What lies in a window, as libblkid knows it, whatever the window is a part of: a device, an NBD server, a logical volume.
//!
//! The library reads files. It is shown a sparse file in memory of the window's size with copies of both ends, where all its
//! signatures are; only NTFS has more, the first records of its $MFT. What it does not find there is unknown, and
//! what is unknown is copied whole.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::fields::{le16, le64};
use super::{Doubt, Window};
use crate::blkid::{Area, Probe, probe_file, signatures_file};
use crate::error::DiskError;

/// Bytes copied of each end. The deepest signatures are that of VMFS, at 2 MiB, and that of a Promise RAID, 1.6 MiB from the end.
const HEAD: u64 = 3 << 20;
const TAIL: u64 = 2 << 20;
/// Four of the largest $MFT records.
const RECORDS: u64 = 4 * 4096;

/// What was found.
pub(super) struct Content {
    /// What the library takes it for.
    pub probe: Probe,
    /// The kinds of all signatures but those of partition tables. A volume's takes precedence over a filesystem's beside it.
    pub kinds: Vec<String>,
}

/// Identifies the content of `window`.
///
/// # Errors
/// Read errors, and those of the library.
pub(super) fn identify(window: &Window<'_>) -> Result<Content, Doubt> {
    let name = &window.disk().identity().path;
    let failed = |error| Doubt::from(DiskError::io(name, "identifying what lies there", error));
    let file =
        memfd_create(c"gantry-identify", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let file = File::from(file);
    file.set_len(window.size()).map_err(failed)?;
    let copy = |offset: u64, length: u64| -> Result<Vec<u8>, Doubt> {
        let bytes = window.read(offset, length)?;
        file.write_all_at(&bytes, offset).map_err(failed)?;
        Ok(bytes)
    };
    let head = copy(0, HEAD.min(window.size()))?;
    let tail = window.size().saturating_sub(TAIL).max(head.len() as u64);
    copy(tail, window.size() - tail)?;
    if head.get(3..11) == Some(b"NTFS    ") {
        let cluster = u64::from(le16(&head, 11)?) * u64::from(head[13]);
        let records = le64(&head, 48)?.checked_mul(cluster).filter(|&at| at < window.size());
        if let Some(at) = records {
            copy(at, RECORDS.min(window.size() - at))?;
        }
    }
    let area = Area { sector: Some(window.disk().sector_size()), ..Area::default() };
    let name = Path::new(name);
    let signatures = signatures_file(&file, name, area)?;
    let kinds =
        signatures.into_iter().filter(|found| found.usage != "partition table").map(|found| found.kind);
    Ok(Content { probe: probe_file(&file, name, area)?, kinds: kinds.collect() })
}
