//! What lies on a disk or a part of it, as libblkid knows it.
//!
//! The library is linked statically and called through the hand-written declarations in [`ffi`]. Probing needs a
//! readable node or file, no udev, no cache; it reads a few hundred KiB at both ends. When a disk carries several
//! signatures that exclude each other the library refuses to choose: that is information, not an error, so [`Probe`]
//! has a flag for it and [`signatures`] lists them all.

mod ffi;

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::end::SectorSize;
use crate::error::{DiskError, Result};

/// What a disk, partition or range carries. Empty strings: the library found none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Filesystem or member type: "ext4", "vfat", "LVM2_member", "crypto_LUKS", "swap", "swsuspend".
    pub kind: String,
    /// UUID of the filesystem.
    pub uuid: String,
    /// Label of the filesystem.
    pub label: String,
    /// "filesystem", "raid", "crypto" or "other".
    pub usage: String,
    /// Version of the format.
    pub version: String,
    /// Type of the partition table: "gpt", "dos", …
    pub table: String,
    /// Id of the partition table.
    pub table_id: String,
    /// Several signatures exclude each other; the other fields are empty. See [`signatures`].
    pub ambivalent: bool,
}

impl Probe {
    /// Nothing was recognised.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// As [`Probe::kind`], or the type of a partition table.
    pub kind: String,
    /// Byte offset of the magic from the start of what was probed, where the library says.
    pub offset: Option<u64>,
    /// "filesystem", "raid", "crypto", "other" or "partition table".
    pub usage: String,
    /// Label, or empty.
    pub label: String,
    /// UUID or table id, or empty.
    pub uuid: String,
}

/// A part of a disk, and how to look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub offset: u64,
    /// Bytes; 0 means to the end.
    pub length: u64,
    /// For image files of disks whose sectors are not 512 bytes. Devices are asked.
    pub sector: Option<SectorSize>,
}

/// Identifies what lies in `length` bytes (0: all the rest) at `offset` of the device or file at `path`.
pub fn probe(path: &Path, offset: u64, length: u64) -> Result<Probe> {
    probe_area(path, Area { offset, length, sector: None })
}

/// [`probe`], for images too.
pub fn probe_area(path: &Path, area: Area) -> Result<Probe> {
    probe_file(&open(path)?, path, area)
}

/// [`probe_area`] of an open file; `path` is what errors call it.
pub(crate) fn probe_file(file: &File, path: &Path, area: Area) -> Result<Probe> {
    let mut prober =
        ffi::Prober::new(file, area, ffi::Detail::Values).map_err(|error| failed(path, area, error))?;
    let mut probe = Probe::default();
    match prober.safe_probe().map_err(|error| failed(path, area, error))? {
        ffi::Outcome::Nothing => return Ok(probe),
        ffi::Outcome::Ambivalent => probe.ambivalent = true,
        ffi::Outcome::Found => {}
    }
    for (name, value) in prober.values() {
        let field = match name.as_str() {
            "TYPE" => &mut probe.kind,
            "UUID" => &mut probe.uuid,
            "LABEL" => &mut probe.label,
            "USAGE" => &mut probe.usage,
            "VERSION" => &mut probe.version,
            "PTTYPE" => &mut probe.table,
            "PTUUID" => &mut probe.table_id,
            _ => continue,
        };
        *field = value;
    }
    Ok(probe)
}

/// All signatures in the area, also those that exclude each other, in the library's order.
pub fn signatures(path: &Path, area: Area) -> Result<Vec<Signature>> {
    signatures_file(&open(path)?, path, area)
}

/// [`signatures`] of an open file; `path` is what errors call it.
pub(crate) fn signatures_file(file: &File, path: &Path, area: Area) -> Result<Vec<Signature>> {
    let mut prober =
        ffi::Prober::new(file, area, ffi::Detail::Magics).map_err(|error| failed(path, area, error))?;
    let mut found = Vec::new();
    while prober.next_signature().map_err(|error| failed(path, area, error))? {
        let values = prober.values();
        let value = |name: &str| {
            values.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let table = !value("PTTYPE").is_empty();
        found.push(if table {
            Signature {
                kind: value("PTTYPE"),
                offset: value("PTMAGIC_OFFSET").parse().ok(),
                usage: "partition table".to_owned(),
                label: String::new(),
                uuid: value("PTUUID"),
            }
        } else {
            Signature {
                kind: value("TYPE"),
                offset: value("SBMAGIC_OFFSET").parse().ok(),
                usage: value("USAGE"),
                label: value("LABEL"),
                uuid: value("UUID"),
            }
        });
        if found.len() == MOST_SIGNATURES {
            break;
        }
    }
    Ok(found)
}

/// Every prober of the library finds at most one; it has about a hundred.
const MOST_SIGNATURES: usize = 128;

fn open(path: &Path) -> Result<File> {
    File::open(path)
        .map_err(|error| DiskError::io(path.display().to_string(), "opening to identify it", error))
}

fn failed(path: &Path, area: Area, error: std::io::Error) -> DiskError {
    DiskError::io(path.display().to_string(), "identifying what lies there", error).at(area.offset)
}

#[cfg(test)]
mod tests;
