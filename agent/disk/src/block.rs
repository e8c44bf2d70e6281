//! A block device as a disk end, with O_DIRECT: what is read comes from the device, what is written goes there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

use crate::buffer::{ALIGNMENT, AlignedBuffer};
use crate::end::{Geometry, Identity, ReadAt, SectorSize, WriteAt};
use crate::error::{DiskError, ErrorKind, Result};
use crate::ioctl;

/// Bounce buffers and zero writes go in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// An open block device.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    size: u64,
    sector_size: SectorSize,
    identity: Identity,
    /// It was writable before, and is to be so again when this is dropped.
    give_back: bool,
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        if self.give_back
            && let Err(error) = ioctl::set_read_only(&self.file, false)
        {
            eprintln!("{}: it stays read-only (blockdev --setrw undoes it): {error}", self.identity.path);
        }
    }
}

impl BlockDevice {
    /// Opens a source: read-only, and set read-only in the kernel, so that nothing on this host writes to it by
    /// mistake. BLKROSET does not stop I/O that is submitted inside the kernel: see law 1.
    pub fn open_source(path: &Path, identity: Identity) -> Result<Self> {
        let device = Self::open(path, identity, OpenOptions::new().read(true), libc::O_DIRECT)?;
        ioctl::set_read_only(&device.file, true)
            .map_err(|e| DiskError::io(&device.identity.path, "setting the device read-only", e))?;
        Ok(device)
    }

    /// Opens a volume of a live host as a source. Other than a disk it is given back as it was: its owner goes on using it,
    /// and a loop device keeps the flag when the kernel gives it to somebody else for another file (seen with Linux 6.12).
    pub fn open_volume_source(path: &Path, identity: Identity) -> Result<Self> {
        let volume = Self::open_reader(path, identity)?;
        let was = ioctl::is_read_only(&volume.file)
            .map_err(|e| DiskError::io(&volume.identity.path, "asking whether it is read-only", e))?;
        let mut source = Self::open_source(path, volume.identity.clone())?;
        source.give_back = !was;
        Ok(source)
    }

    /// Opens for reading, without changing any state of the device.
    pub fn open_reader(path: &Path, identity: Identity) -> Result<Self> {
        Self::open(path, identity, OpenOptions::new().read(true), libc::O_DIRECT)
    }

    /// Opens a target exclusively: fails with `InUse` when it is mounted, swap, or held by md, dm or another Gantry,
    /// and keeps all of them away as long as it is open.
    pub fn open_target(path: &Path, identity: Identity) -> Result<Self> {
        Self::open(path, identity, OpenOptions::new().read(true).write(true), libc::O_DIRECT | libc::O_EXCL)
    }

    fn open(path: &Path, mut identity: Identity, options: &mut OpenOptions, flags: i32) -> Result<Self> {
        let name = path.display().to_string();
        if path.is_dir() {
            // O_DIRECT would call it an invalid argument.
            return Err(DiskError::new(
                ErrorKind::Unsuitable,
                name,
                "is a directory, not a disk or an image",
            ));
        }
        let file = options.custom_flags(flags | libc::O_CLOEXEC).open(path).map_err(|e| {
            let busy = e.raw_os_error() == Some(libc::EBUSY);
            let mut error = DiskError::io(&name, "opening the device", e);
            error.kind = if busy { ErrorKind::InUse } else { ErrorKind::Io };
            error
        })?;
        let kind = file.metadata().map_err(|e| DiskError::io(&name, "looking at the device", e))?.file_type();
        if !kind.is_block_device() {
            return Err(DiskError::new(ErrorKind::Unsuitable, name, "opening: this is not a block device"));
        }
        let size = ioctl::size(&file).map_err(|e| DiskError::io(&name, "asking for the size", e))?;
        let sector =
            ioctl::sector_size(&file).map_err(|e| DiskError::io(&name, "asking for the sector size", e))?;
        let sector_size = SectorSize::try_from(sector)
            .map_err(|why| DiskError::new(ErrorKind::Unsuitable, &name, format!("opening: {why}")))?;
        identity.path = name;
        Ok(Self { file, size, sector_size, identity, give_back: false })
    }

    fn aligned(&self, offset: u64, buffer: &[u8]) -> bool {
        let sector = u64::from(self.sector_size.bytes());
        offset.is_multiple_of(sector)
            && (buffer.len() as u64).is_multiple_of(sector)
            && (buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT.min(sector as usize))
    }

    fn read_aligned(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (what, length) = (&self.identity.path, buffer.len());
        let read = self.file.read_exact_at(buffer, offset);
        read.map_err(|e| DiskError::io(what, format!("reading {length} bytes"), e).at(offset))
    }

    /// Calls `f` with an aligned window over `[offset, offset + length)`: its start, and the buffer holding it.
    fn window(&self, offset: u64, length: usize) -> (u64, AlignedBuffer) {
        let sector = u64::from(self.sector_size.bytes());
        let start = offset / sector * sector;
        let end = (offset + length as u64).div_ceil(sector) * sector;
        (start, AlignedBuffer::new((end - start) as usize))
    }
}

impl Geometry for BlockDevice {
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

impl ReadAt for BlockDevice {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        if self.aligned(offset, buffer) {
            return self.read_aligned(offset, buffer);
        }
        for (i, piece) in buffer.chunks_mut(PIECE).enumerate() {
            let at = offset + (i * PIECE) as u64;
            let (start, mut bounce) = self.window(at, piece.len());
            self.read_aligned(start, &mut bounce)?;
            let skip = (at - start) as usize;
            piece.copy_from_slice(&bounce[skip..skip + piece.len()]);
        }
        Ok(())
    }
}

impl WriteAt for BlockDevice {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, "writing")?;
        let write = |at: u64, bytes: &[u8]| {
            self.file.write_all_at(bytes, at).map_err(|e| {
                DiskError::io(&self.identity.path, format!("writing {} bytes", bytes.len()), e).at(at)
            })
        };
        if self.aligned(offset, data) {
            return write(offset, data);
        }
        for (i, piece) in data.chunks(PIECE).enumerate() {
            let at = offset + (i * PIECE) as u64;
            let (start, mut bounce) = self.window(at, piece.len());
            let skip = (at - start) as usize;
            if bounce.len() != piece.len() {
                self.read_aligned(start, &mut bounce)?;
            }
            bounce[skip..skip + piece.len()].copy_from_slice(piece);
            write(start, &bounce)?;
        }
        Ok(())
    }

    /// FALLOC_FL_ZERO_RANGE is the kernel's "write zeroes, unmapping nothing"; where a driver has no such thing the
    /// kernel, or we, write them. Discard is never used: it promises nothing about what is read back.
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length, "zeroing")?;
        let sector = u64::from(self.sector_size.bytes());
        let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if offset.is_multiple_of(sector)
            && length.is_multiple_of(sector)
            && length > 0
            && fallocate(&self.file, flags, offset as i64, length as i64).is_ok()
        {
            return Ok(());
        }
        let zeroes = AlignedBuffer::new(PIECE);
        let mut at = offset;
        while at < offset + length {
            let step = ((offset + length - at) as usize).min(PIECE);
            self.write_at(at, &zeroes[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| DiskError::io(&self.identity.path, "flushing", e))
    }
}
