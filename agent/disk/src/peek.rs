//! A disk end that only looks: opened read-only, with no side effect on the device.
//!
//! For surveys, inspection and plans. Replication uses the ends that guard the disk (`block`, `file`).

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use crate::end::{Geometry, Identity, ReadAt, SectorSize};
use crate::error::{DiskError, ErrorKind, Result};
use crate::extents::{self, Extent};
use crate::roots::{Roots, number};

/// A disk, partition or image file, to be looked at.
#[derive(Debug)]
pub struct Peek {
    file: File,
    size: u64,
    sector: SectorSize,
    identity: Identity,
    device: bool,
}

impl Peek {
    /// Opens `path`. The sector size of a device is the kernel's; of a file, that of its GPT if it has one, else 512.
    ///
    /// # Errors
    /// Those of opening; `Unsuitable` for a folder, pipe or character device.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let io = |operation: &str, error| DiskError::io(&name, operation, error);
        let mut file = File::open(path).map_err(|error| io("opening to look at it", error))?;
        let meta = file.metadata().map_err(|error| io("asking what it is", error))?;
        let device = meta.file_type().is_block_device();
        if !device && !meta.is_file() {
            return Err(DiskError::new(
                ErrorKind::Unsuitable,
                name,
                "it is neither a block device nor a file",
            ));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(|error| io("asking for its size", error))?;
        let mut peek = Self {
            file,
            size,
            sector: SectorSize::B512,
            identity: Identity { path: name, ..Identity::default() },
            device,
        };
        peek.sector = if device {
            kernel_sector_size(&Roots::default(), meta.rdev())
        } else {
            crate::table::sector_size_of_gpt(&peek).unwrap_or(SectorSize::B512)
        };
        Ok(peek)
    }

    /// Whether it is a block device.
    pub fn is_device(&self) -> bool {
        self.device
    }
}

/// From sysfs; a partition's queue is its disk's.
fn kernel_sector_size(roots: &Roots, device: u64) -> SectorSize {
    let folder = roots.sys.join(format!("dev/block/{}:{}", libc::major(device), libc::minor(device)));
    [folder.join("queue"), folder.join("../queue")]
        .iter()
        .find_map(|queue| number(&queue.join("logical_block_size")))
        .and_then(|bytes| u32::try_from(bytes).ok()?.try_into().ok())
        .unwrap_or(SectorSize::B512)
}

impl Geometry for Peek {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> SectorSize {
        self.sector
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Peek {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|error| {
            DiskError::io(&self.identity.path, format!("reading {} bytes", buffer.len()), error).at(offset)
        })
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        if self.device {
            return Ok(vec![Extent { offset, length, zero: false }]);
        }
        extents::of_file(&self.file, &self.identity.path, offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_size_and_the_sector_size_of_its_gpt() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let mut bytes = vec![0; 8 << 20];
        std::fs::write(&path, &bytes).unwrap();
        let peek = Peek::open(&path).unwrap();
        assert_eq!((peek.size(), peek.sector_size().bytes(), peek.is_device()), (8 << 20, 512, false));
        crate::table::tests::small_gpt(&mut bytes, 4096.try_into().unwrap());
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Peek::open(&path).unwrap().sector_size().bytes(), 4096);
        let error = peek.read_at(8 << 20, &mut [0; 1]).unwrap_err();
        assert_eq!(error.offset, Some(8 << 20));
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        assert_eq!(Peek::open(Path::new("/dev/null")).unwrap_err().kind, ErrorKind::Unsuitable);
        assert_eq!(Peek::open(Path::new("/tmp")).unwrap_err().kind, ErrorKind::Unsuitable);
        assert_eq!(Peek::open(Path::new("/nonexistent")).unwrap_err().kind, ErrorKind::Io);
    }
}
