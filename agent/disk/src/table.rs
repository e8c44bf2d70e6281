//! Partition tables: GPT and MBR, read from any disk end. Nothing here writes.
//!
//! What firmware and kernel make of a table is what counts, so a GPT is one only under a protective MBR, a dead primary
//! is replaced by the backup, and what is odd but readable is listed as a [`Fault`] instead of refused. A table that
//! nobody could use is an error. Every number is checked before use: the disk is not trusted.
//!
//! The reader is our own: relocation ([`relocate`]) needs the raw fields anyway, and the limits on counts and sizes must be
//! ours. The `gpt` crate and sfdisk judge it in the tests.

mod fault;
mod gpt;
mod mbr;
pub mod relocate;
mod types;

use serde::{Deserialize, Serialize};

pub use fault::Fault;
pub use types::{ESP, type_name};

use crate::end::{ReadAt, SectorSize};
use crate::error::{DiskError, ErrorKind, Result};

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// GUID partition table.
    Gpt,
    /// DOS partition table in the master boot record.
    Mbr,
}

/// One partition. Offsets and lengths in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// As the kernel numbers it: GPT slot, MBR slot 1 to 4, logical partitions from 5.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// GPT type GUID in lower case, or "0x83".
    pub type_id: String,
    /// PARTUUID as the kernel writes it, lower case.
    pub uuid: String,
    /// GPT name, or empty.
    pub name: String,
    /// MBR active flag, or GPT "legacy BIOS bootable".
    pub bootable: bool,
    /// An extended MBR partition: it holds the logical ones and no data.
    pub container: bool,
}

impl Partition {
    /// The byte after the last.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// A partition table that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// GPT or MBR.
    pub kind: Kind,
    /// Disk GUID, or the MBR disk signature as 8 hex digits.
    pub id: String,
    /// Sector size that the table's numbers are in.
    pub sector: SectorSize,
    /// In the order of their numbers.
    pub partitions: Vec<Partition>,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// Reads the partition table of `disk`; `None` when there is none.
///
/// # Errors
/// `Unsuitable` for a table that cannot be used: a protective MBR without a good GPT, or a GPT written for another sector
/// size. Read errors.
pub fn read(disk: &dyn ReadAt) -> Result<Option<Table>> {
    let sector = disk.sector_size();
    let size = u64::from(sector.bytes());
    if disk.size() < 2 * size {
        return Ok(None);
    }
    let mut first = vec![0; sector.bytes() as usize];
    disk.read_at(0, &mut first)?;
    let record = mbr::Record::parse(&first);
    let gpt = gpt::read(disk)?;
    let table = match (record, gpt) {
        (Some(record), gpt::Found::Table(table)) if record.protects_gpt() => {
            Some(gpt::with_record_faults(*table, &record, disk.size() / size))
        }
        (Some(record), gpt::Found::Damaged(reason)) if record.protects_gpt() => {
            return Err(no_good_gpt(disk, &reason));
        }
        (Some(record), gpt::Found::None) if record.protects_gpt() => {
            return Err(no_good_gpt(disk, "no GPT header at the start or the end"));
        }
        (Some(record), found) => {
            let mut table = mbr::read(disk, &record)?;
            if let (Some(table), gpt::Found::Table(_)) = (&mut table, &found) {
                table.faults.push(Fault::StaleGpt);
            }
            table
        }
        (None, gpt::Found::Table(mut table)) => {
            table.faults.push(Fault::NoProtectiveMbr);
            Some(*table)
        }
        (None, _) => None,
    };
    Ok(table.map(|mut table| {
        table.faults.extend(fault::of_layout(&table, disk.size()));
        table
    }))
}

/// The sector size for which a GPT on `disk` was written, whatever the disk says its own is. For images of 4Kn disks.
pub fn sector_size_of_gpt(disk: &dyn ReadAt) -> Option<SectorSize> {
    [512, 4096, 1024, 2048].into_iter().filter_map(|size| SectorSize::try_from(size).ok()).find(|size| {
        let mut block = vec![0; size.bytes() as usize];
        disk.read_at(u64::from(size.bytes()), &mut block).is_ok() && gpt::Header::parse(&block, 1).is_ok()
    })
}

fn no_good_gpt(disk: &dyn ReadAt, reason: &str) -> DiskError {
    let own = disk.sector_size();
    let message = match sector_size_of_gpt(disk) {
        Some(other) if other != own => format!(
            "reading its partition table: the GPT was written for sectors of {} bytes, this disk has {}",
            other.bytes(),
            own.bytes()
        ),
        _ => format!("reading its partition table: a protective MBR, but no good GPT: {reason}"),
    };
    DiskError::new(ErrorKind::Unsuitable, &disk.identity().path, message)
}

#[cfg(test)]
pub(crate) mod tests;
