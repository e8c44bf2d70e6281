//! The master boot record: four slots, and the chain of logical partitions behind an extended one.

use super::gpt::le32;
use super::{Fault, Kind, Partition, Table};
use crate::end::ReadAt;
use crate::error::Result;

/// The most logical partitions that are followed; Linux makes at most 256 nodes a disk.
const MOST_LOGICAL: u32 = 256;
/// Byte of the first slot.
pub(super) const SLOTS: usize = 446;
/// Type of the protective partition.
pub(super) const PROTECTIVE: u8 = 0xee;

/// One 16-byte slot. Start and length in blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    flag: u8,
    pub kind: u8,
    pub start: u32,
    pub blocks: u32,
}

impl Slot {
    fn parse(bytes: &[u8]) -> Self {
        Self { flag: bytes[0], kind: bytes[4], start: le32(bytes, 8), blocks: le32(bytes, 12) }
    }

    fn is_used(self) -> bool {
        self.kind != 0 && self.blocks != 0
    }

    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// A first sector that is a partition table and not a filesystem's boot sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    signature: u32,
    pub slots: [Slot; 4],
}

impl Record {
    /// `None` without the 55 AA mark, with impossible flags, or when it is the boot sector of a FAT, exFAT or NTFS.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        let slots = slots(sector)?;
        let plausible = slots.iter().all(|slot| slot.flag & 0x7f == 0);
        let boot_sector = [(3, &b"NTFS    "[..]), (3, b"EXFAT   "), (0x36, b"FAT1"), (0x52, b"FAT32   ")]
            .iter()
            .any(|(at, mark)| sector.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
        // mkfs.fat can leave a table inside its boot sector; what is protective or has partitions is a table.
        let record = Self { signature: le32(sector, 440), slots };
        (plausible && (!boot_sector || record.protects_gpt())).then_some(record)
    }

    pub(super) fn protects_gpt(&self) -> bool {
        self.slots.iter().any(|slot| slot.kind == PROTECTIVE)
    }

    /// Other partitions beside the protective one.
    pub(super) fn is_hybrid(&self) -> bool {
        self.slots.iter().filter(|slot| slot.is_used()).count() > 1
    }

    /// Whether the protective partition reaches the end of a disk of `blocks`, or as far as 32 bits go.
    pub(super) fn protective_spans(&self, blocks: u64) -> bool {
        let wanted = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
        self.slots
            .iter()
            .any(|slot| slot.kind == PROTECTIVE && (slot.blocks == wanted || slot.blocks == u32::MAX))
    }
}

fn slots(sector: &[u8]) -> Option<[Slot; 4]> {
    if sector.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    let mut slots = [Slot::default(); 4];
    for (slot, bytes) in slots.iter_mut().zip(sector[SLOTS..510].chunks_exact(16)) {
        *slot = Slot::parse(bytes);
    }
    Some(slots)
}

/// The table of a record. `None` for boot code without partitions and without a disk signature.
pub(super) fn read(disk: &dyn ReadAt, record: &Record) -> Result<Option<Table>> {
    if record.signature == 0 && record.slots.iter().all(|slot| !slot.is_used()) {
        return Ok(None);
    }
    let sector = disk.sector_size();
    let mut table = Table {
        kind: Kind::Mbr,
        id: format!("{:08x}", record.signature),
        sector,
        partitions: Vec::new(),
        faults: Vec::new(),
    };
    for (number, slot) in (1..).zip(record.slots).filter(|(_, slot)| slot.is_used()) {
        table.partitions.push(partition(&table, number, u64::from(slot.start), slot));
    }
    // Linux follows the first extended partition only.
    if let Some(extended) = record.slots.iter().find(|slot| slot.is_used() && slot.is_extended())
        && let Some(reason) = logical(disk, *extended, &mut table)?
    {
        table.faults.push(Fault::BrokenChain { reason });
    }
    Ok(Some(table))
}

/// Follows the chain: each link is a record whose first slot is a logical partition relative to the link and whose second
/// is the next link relative to the extended partition. Returns why it ended early.
fn logical(disk: &dyn ReadAt, extended: Slot, table: &mut Table) -> Result<Option<String>> {
    let size = u64::from(disk.sector_size().bytes());
    let blocks = disk.size() / size;
    let base = u64::from(extended.start);
    let mut link = base;
    let mut number = 5;
    let mut sector = vec![0; disk.sector_size().bytes() as usize];
    let mut visited = Vec::new();
    loop {
        if link >= blocks {
            return Ok(Some(format!("a link at block {link}, beyond the disk")));
        }
        if visited.contains(&link) || number >= 5 + MOST_LOGICAL {
            return Ok(Some(format!("it does not end (block {link})")));
        }
        visited.push(link);
        disk.read_at(link * size, &mut sector)?;
        let Some(slots) = slots(&sector) else {
            return Ok(Some(format!("no table at block {link}")));
        };
        for slot in slots.iter().filter(|slot| slot.is_used() && !slot.is_extended()) {
            table.partitions.push(partition(table, number, link + u64::from(slot.start), *slot));
            number += 1;
        }
        match slots.iter().find(|slot| slot.is_used() && slot.is_extended()) {
            Some(next) => link = base + u64::from(next.start),
            None => return Ok(None),
        }
    }
}

fn partition(table: &Table, number: u32, start: u64, slot: Slot) -> Partition {
    let size = u64::from(table.sector.bytes());
    Partition {
        number,
        start: start * size,
        length: u64::from(slot.blocks) * size,
        type_id: format!("0x{:02x}", slot.kind),
        uuid: format!("{}-{number:02x}", table.id),
        name: String::new(),
        bootable: slot.flag & 0x80 != 0,
        container: slot.is_extended(),
    }
}
