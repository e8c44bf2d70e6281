//! Whether the mark's place belongs to nobody, from the head alone.

use super::{LENGTH, OFFSET, Reason};
use crate::end::{Geometry, Identity, ReadAt, SectorSize};
use crate::error::{DiskError, ErrorKind, Result};
use crate::table::{self, Fault};

/// The head, read as a disk of its own: every byte that is not in it is zero.
struct Head<'a> {
    bytes: &'a [u8],
    sector: SectorSize,
    identity: Identity,
}

impl Geometry for Head<'_> {
    fn size(&self) -> u64 {
        // Large enough that no partition is cut; reads beyond the head are zeros, so a backup GPT is simply missing.
        1 << 62
    }

    fn sector_size(&self) -> SectorSize {
        self.sector
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Head<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.fill(0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(rest) = self.bytes.get(start..) else {
            return Ok(());
        };
        if rest.len() < buffer.len() && offset != 0 && buffer.len() > self.sector.bytes() as usize {
            return Err(DiskError::new(
                ErrorKind::Range,
                "head",
                "reading partition entries beyond the first MiB",
            ));
        }
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(())
    }
}

/// Refuses when a partition covers the place or the table cannot be read.
pub(super) fn check(head: &[u8], sector: SectorSize) -> Result<(), Reason> {
    let disk = Head { bytes: head, sector, identity: Identity::default() };
    let table = table::read(&disk).map_err(|error| Reason::BadTable(error.operation))?;
    let Some(table) = table else {
        return Ok(());
    };
    let (first, end) = (OFFSET as u64, (OFFSET + LENGTH) as u64);
    // Logical partitions whose links lie beyond the head are not seen, but the extended one around them is.
    if let Some(part) = table.partitions.iter().find(|part| part.start < end && part.end() > first) {
        return Err(Reason::InPartition(part.number));
    }
    if let Some(fault) =
        table.faults.iter().find(|fault| matches!(fault, Fault::PrimaryDead { .. } | Fault::HybridMbr))
    {
        return Err(Reason::BadTable(fault.to_string()));
    }
    Ok(())
}
