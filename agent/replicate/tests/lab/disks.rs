//! Disk ends that misbehave on purpose.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gantry_disk::{DiskError, Geometry, Identity, ImageFile, ReadAt, Result, SectorSize, WriteAt};

/// What a disk end is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Zero,
    Flush,
}

/// A disk end that misbehaves in the ways that are set; by itself it is sound.
pub struct Troubled {
    inner: ImageFile,
    bad_byte: Option<u64>,
    life: AtomicU64,
    failing: Mutex<Option<Failing>>,
}

/// One kind of operation fails, after `skip` good ones, `times` times.
struct Failing {
    operation: Operation,
    skip: u64,
    times: u64,
}

impl Troubled {
    fn over(inner: ImageFile) -> Self {
        Self { inner, bad_byte: None, life: AtomicU64::new(u64::MAX), failing: Mutex::default() }
    }
    /// A source that cannot be read at one byte.
    pub fn unreadable(path: &Path, byte: u64) -> Arc<Self> {
        Arc::new(Self { bad_byte: Some(byte), ..Self::over(ImageFile::open_source(path).unwrap()) })
    }
    /// A target that dies after so many writes, zeroes and flushes, as if its machine had lost power: from then on every
    /// one of them fails. What was written before stays.
    pub fn mortal(path: &Path, operations: u64) -> Arc<Self> {
        let life = AtomicU64::new(operations);
        Arc::new(Self { life, ..Self::over(ImageFile::open_target(path).unwrap()) })
    }
    /// A target of which one kind of operation fails with EIO, after `skip` good ones, `times` times.
    pub fn failing(path: &Path, operation: Operation, skip: u64, times: u64) -> Arc<Self> {
        let failing = Mutex::new(Some(Failing { operation, skip, times }));
        Arc::new(Self { failing, ..Self::over(ImageFile::open_target(path).unwrap()) })
    }
    /// Whether all failures that were set have happened.
    pub fn has_failed(&self) -> bool {
        self.failing.lock().unwrap().as_ref().is_some_and(|failing| failing.times == 0)
    }
    /// From now on nothing fails.
    pub fn mend(&self) {
        *self.failing.lock().unwrap() = None;
    }
    pub fn is_dead(&self) -> bool {
        self.life.load(Ordering::Relaxed) == 0
    }
    fn live(&self) -> Result<()> {
        let alive = self.life.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let gone = || DiskError::io("mortal", "living", std::io::Error::other("the machine is off"));
        alive.map(drop).map_err(|_| gone())
    }
    fn eio(&self, operation: &str) -> DiskError {
        let path = &self.inner.identity().path;
        DiskError::io(path, operation, std::io::Error::from_raw_os_error(5))
    }
    fn pass(&self, operation: Operation, words: &str) -> Result<()> {
        match &mut *self.failing.lock().unwrap() {
            Some(failing) if failing.operation == operation && failing.times > 0 => {
                if failing.skip == 0 {
                    failing.times -= 1;
                    return Err(self.eio(words));
                }
                failing.skip -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Geometry for Troubled {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.inner.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.inner.identity()
    }
}

impl ReadAt for Troubled {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.pass(Operation::Read, "reading")?;
        match self.bad_byte {
            Some(at) if at >= offset && at < offset + buffer.len() as u64 => {
                Err(self.eio("reading 4096 bytes").at(at))
            }
            _ => self.inner.read_at(offset, buffer),
        }
    }
}

impl WriteAt for Troubled {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.live()?;
        self.pass(Operation::Write, "writing")?;
        self.inner.write_at(offset, data)
    }
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.live()?;
        self.pass(Operation::Zero, "zeroing")?;
        self.inner.zero_at(offset, length)
    }
    fn flush(&self) -> Result<()> {
        self.live()?;
        self.pass(Operation::Flush, "flushing")?;
        self.inner.flush()
    }
}
