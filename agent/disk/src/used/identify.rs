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
use crate::blkid::{Area, Probe, probe_file};
use crate::error::DiskError;

/// Bytes copied of each end. The deepest signature is that of VMFS, at 2 MiB.
const END: u64 = 4 << 20;
/// Four of the largest $MFT records.
const RECORDS: u64 = 4 * 4096;

/// Identifies the content of `window`.
///
/// # Errors
/// Read errors, and those of the library.
pub(super) fn identify(window: &Window<'_>) -> Result<Probe, Doubt> {
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
    let head = copy(0, END.min(window.size()))?;
    let tail = window.size().saturating_sub(END).max(head.len() as u64);
    copy(tail, window.size() - tail)?;
    if head.get(3..11) == Some(b"NTFS    ") {
        let cluster = u64::from(le16(&head, 11)?) * u64::from(head[13]);
        let records = le64(&head, 48)?.checked_mul(cluster).filter(|&at| at < window.size());
        if let Some(at) = records {
            copy(at, RECORDS.min(window.size() - at))?;
        }
    }
    let area = Area { sector: Some(window.disk().sector_size()), ..Area::default() };
    Ok(probe_file(&file, Path::new(name), area)?)
}
