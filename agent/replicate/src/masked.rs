//! A disk as its replica has it: what is wanted of it is read, the rest is zero.

use gantry_disk::used::Ranges;
use gantry_disk::{DiskError, Geometry, Identity, ReadAt, SectorSize};

/// Reads the parts of `bytes`, which lie at `offset`, that are wanted; makes the others zero. Bytes that were read.
///
/// # Errors
/// The first one of `read`.
pub fn read_wanted<E>(
    wanted: &Ranges,
    offset: u64,
    bytes: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let (mut filled, mut count) = (0, 0);
    for part in wanted.inside(offset..offset + bytes.len() as u64) {
        let (start, stop) = ((part.start - offset) as usize, (part.end - offset) as usize);
        bytes[filled..start].fill(0);
        read(part.start, &mut bytes[start..stop])?;
        filled = stop;
        count += part.end - part.start;
    }
    bytes[filled..].fill(0);
    Ok(count)
}

/// An end of which only some ranges are wanted.
pub struct Masked<'a> {
    /// The end.
    pub end: &'a dyn ReadAt,
    /// In multiples of its sectors.
    pub wanted: &'a Ranges,
}

impl Geometry for Masked<'_> {
    fn size(&self) -> u64 {
        self.end.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.end.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.end.identity()
    }
}

impl ReadAt for Masked<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        read_wanted(self.wanted, offset, buffer, |at, part| self.end.read_at(at, part)).map(drop)
    }
}
