//! The traits of a disk end. All offsets and lengths are bytes.

use serde::{Deserialize, Serialize};

use crate::error::{DiskError, ErrorKind, Result};
use crate::extents::Extent;

/// Logical sector size in bytes; a power of two from 512 to 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SectorSize(u32);

impl SectorSize {
    /// What nearly every disk and every image file has.
    pub const B512: Self = Self(512);

    /// Bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for SectorSize {
    type Error = String;
    fn try_from(bytes: u32) -> Result<Self, String> {
        match bytes {
            512 | 1024 | 2048 | 4096 => Ok(Self(bytes)),
            _ => Err(format!("a sector of {bytes} bytes; 512 to 4096, a power of two, is supported")),
        }
    }
}

impl From<SectorSize> for u32 {
    fn from(size: SectorSize) -> u32 {
        size.0
    }
}

/// What a disk is called, by itself and by this machine. Empty strings mean "not known".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Device node or file path on this machine, now. Not stable.
    pub path: String,
    /// Serial number that the disk reports.
    pub serial: String,
    /// World Wide Name, lower-case, as in sysfs ("naa.5000…", "eui.…", "nvme.…").
    pub wwn: String,
    /// Model string.
    pub model: String,
}

/// Size and names of a disk end.
pub trait Geometry {
    /// Size in bytes, a multiple of the sector size.
    fn size(&self) -> u64;
    /// Logical sector size.
    fn sector_size(&self) -> SectorSize;
    /// Its names.
    fn identity(&self) -> &Identity;

    /// Refuses what reaches beyond the end; `verb` is "reading", "writing" or "zeroing".
    fn check(&self, offset: u64, length: u64, verb: &str) -> Result<()> {
        match offset.checked_add(length) {
            Some(stop) if stop <= self.size() => Ok(()),
            _ => {
                let what = format!("{verb} {length} bytes beyond the end ({} bytes)", self.size());
                Err(DiskError::new(ErrorKind::Range, &self.identity().path, what).at(offset))
            }
        }
    }
}

/// A disk end that can be read. Safe to call from several threads at once.
pub trait ReadAt: Geometry + Send + Sync {
    /// Fills `buffer` from `offset`. Any alignment. A short read is an error that names the byte.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// What is known of `[offset, offset + length)`, a range of this end, without reading it: extents without gaps from
    /// `offset` on. They may stop short of the range, but never at its start; the rest is asked for again.
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        Ok(vec![Extent { offset, length, zero: false }])
    }
}

/// A disk end that can be written. Nothing is durable before [`WriteAt::flush`] returned well.
pub trait WriteAt: ReadAt {
    /// Writes all of `data` at `offset`. Any alignment (unaligned edges are read, merged, written).
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;
    /// Makes `length` bytes at `offset` read as zero: zeroed, punched or written.
    fn zero_at(&self, offset: u64, length: u64) -> Result<()>;
    /// Everything written before this call is on the medium when it returns well. After an error nothing since
    /// the last good flush counts, even if a second flush succeeds.
    fn flush(&self) -> Result<()>;
}
