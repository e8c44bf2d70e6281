//! A raw image file as a disk end.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use crate::end::{Geometry, Identity, ReadAt, SectorSize, WriteAt};
use crate::error::{DiskError, ErrorKind, Result};
use crate::extents::{self, Extent};

/// An open raw image. Its sectors are 512 bytes unless said otherwise.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
    size: u64,
    sector_size: SectorSize,
    identity: Identity,
}

impl ImageFile {
    /// Opens an image that is only read.
    pub fn open_reader(path: &Path) -> Result<Self> {
        Self::open(path, OpenOptions::new().read(true))
    }

    /// Opens an image as a source, under a lock that keeps every Gantry from writing to it.
    pub fn open_source(path: &Path) -> Result<Self> {
        let image = Self::open_reader(path)?;
        match image.file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                Err(image.busy("locking: another Gantry is writing to this file"))
            }
            // A filesystem without locks keeps nobody out.
            Err(TryLockError::Error(_)) | Ok(()) => Ok(image),
        }
    }

    /// Opens an existing image for writing, under a lock that keeps a second Gantry out.
    pub fn open_target(path: &Path) -> Result<Self> {
        let image = Self::open(path, OpenOptions::new().read(true).write(true))?;
        image.file.try_lock().map_err(|_| image.busy("locking: another Gantry is using this file"))?;
        Ok(image)
    }

    fn busy(&self, why: &str) -> DiskError {
        DiskError::new(ErrorKind::InUse, &self.identity.path, why)
    }

    /// Makes a sparse image of `size` bytes; an existing file is refused.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let name = path.display().to_string();
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
        file.and_then(|file| file.set_len(size)).map_err(|e| DiskError::io(name, "creating the image", e))?;
        Self::open_target(path)
    }

    fn open(path: &Path, options: &mut OpenOptions) -> Result<Self> {
        let name = path.display().to_string();
        let file = options.open(path).map_err(|e| DiskError::io(&name, "opening the image", e))?;
        let metadata = file.metadata().map_err(|e| DiskError::io(&name, "looking at the image", e))?;
        if !metadata.is_file() {
            return Err(DiskError::new(ErrorKind::Unsuitable, name, "opening: this is not a regular file"));
        }
        let sector_size = SectorSize::B512;
        if !metadata.len().is_multiple_of(u64::from(sector_size.bytes())) {
            let why = format!("opening: its size, {} bytes, is no multiple of 512", metadata.len());
            return Err(DiskError::new(ErrorKind::Unsuitable, name, why));
        }
        let identity = Identity { path: name, ..Identity::default() };
        Ok(Self { file, size: metadata.len(), sector_size, identity })
    }
}

impl Geometry for ImageFile {
    fn size(&self) -> u64 {
        self.size
    }
    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for ImageFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        let what = format!("reading {} bytes", buffer.len());
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|e| DiskError::io(&self.identity.path, what, e).at(offset))
    }

    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.check(offset, length, "looking for holes in")?;
        extents::of_file(&self.file, &self.identity.path, offset, length)
    }
}

impl WriteAt for ImageFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, "writing")?;
        let what = format!("writing {} bytes", data.len());
        self.file
            .write_all_at(data, offset)
            .map_err(|e| DiskError::io(&self.identity.path, what, e).at(offset))
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length, "zeroing")?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if length == 0 || fallocate(&self.file, flags, offset as i64, length as i64).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; (length as usize).min(1 << 20)];
        let mut at = offset;
        while at < offset + length {
            let step = ((offset + length - at) as usize).min(zeroes.len());
            self.write_at(at, &zeroes[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    /// After the sync the clean pages are dropped, so that a read-back comes from the medium and not from memory.
    fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| DiskError::io(&self.identity.path, "flushing", e))?;
        // Only advice: where the file system ignores it (tmpfs), memory is the medium.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_zeroes_and_limits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let image = ImageFile::create(&path, 1 << 20).unwrap();
        image.write_at(1000, b"hello").unwrap();
        image.zero_at(1002, 2).unwrap();
        image.flush().unwrap();
        let mut back = [1; 6];
        image.read_at(1000, &mut back).unwrap();
        assert_eq!(&back, b"he\0\0o\0");
        let error = image.write_at((1 << 20) - 2, b"over").unwrap_err();
        assert_eq!((error.kind, error.offset), (ErrorKind::Range, Some((1 << 20) - 2)));
    }

    #[test]
    fn a_second_writer_is_kept_out_and_odd_sizes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let _first = ImageFile::create(&path, 4096).unwrap();
        assert_eq!(ImageFile::open_target(&path).unwrap_err().kind, ErrorKind::InUse);
        let odd = dir.path().join("odd");
        std::fs::write(&odd, [0; 513]).unwrap();
        assert_eq!(ImageFile::open_source(&odd).unwrap_err().kind, ErrorKind::Unsuitable);
    }
}
