//! The GPT (UEFI 2.10, section 5.3): header and entry array, primary and backup.

use super::mbr::Record;
use super::{Fault, Kind, Partition, Table};
use crate::end::{ReadAt, SectorSize};
use crate::error::Result;

/// "EFI PART".
pub(super) const SIGNATURE: &[u8; 8] = b"EFI PART";
/// The most bytes an entry array may have: 8192 entries of the usual size. Common arrays have 16 KiB.
const MOST_ARRAY: u64 = 1 << 20;
const SMALLEST_HEADER: usize = 92;

/// CRC-32 as in zip.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(bytes)
}

/// Little-endian numbers at an offset that is known to be inside.
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// As [`le32`].
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A header whose checksum and numbers are plausible. Blocks are logical sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes that the header's checksum covers.
    pub size: usize,
    /// Block of the other header.
    pub alternate: u64,
    /// First block a partition may use.
    pub first: u64,
    /// Last block a partition may use.
    pub last: u64,
    /// Disk GUID.
    pub guid: [u8; 16],
    /// First block of the entry array.
    pub entries: u64,
    /// Number of entries.
    pub count: u32,
    /// Bytes of one.
    pub entry_size: usize,
    /// Checksum of the array.
    pub entries_crc: u32,
}

impl Header {
    /// Checks and reads the header in `block`, which lies at block `own` of the disk.
    pub(super) fn parse(block: &[u8], own: u64) -> std::result::Result<Self, String> {
        if !block.starts_with(SIGNATURE) {
            return Err("no GPT signature".to_owned());
        }
        if block.len() < 512 {
            return Err("the block is shorter than 512 bytes".to_owned());
        }
        let size = le32(block, 12) as usize;
        if size < SMALLEST_HEADER || size > block.len() {
            return Err(format!("a header of {size} bytes"));
        }
        let mut covered = block[..size].to_vec();
        covered[16..20].fill(0);
        if crc(&covered) != le32(block, 16) {
            return Err("the header's checksum is wrong".to_owned());
        }
        if le64(block, 24) != own {
            return Err(format!("it says it lies at block {}, but lies at block {own}", le64(block, 24)));
        }
        let mut guid = [0; 16];
        guid.copy_from_slice(&block[56..72]);
        let header = Self {
            size,
            alternate: le64(block, 32),
            first: le64(block, 40),
            last: le64(block, 48),
            guid,
            entries: le64(block, 72),
            count: le32(block, 80),
            entry_size: le32(block, 84) as usize,
            entries_crc: le32(block, 88),
        };
        if header.entry_size < 128 || header.entry_size > 4096 || !header.entry_size.is_multiple_of(8) {
            return Err(format!("partition entries of {} bytes", header.entry_size));
        }
        if header.array_bytes() > MOST_ARRAY {
            return Err(format!("{} partition entries; at most 1 MiB of them is supported", header.count));
        }
        Ok(header)
    }

    /// Bytes of the entry array.
    pub(super) fn array_bytes(&self) -> u64 {
        u64::from(self.count) * self.entry_size as u64
    }

    /// Blocks of the entry array.
    pub(super) fn array_blocks(&self, sector: SectorSize) -> u64 {
        self.array_bytes().div_ceil(u64::from(sector.bytes()))
    }
}

/// What was found where a GPT would be.
pub(super) enum Found {
    /// Neither header has the signature.
    None,
    /// A header is there, but none is good.
    Damaged(String),
    Table(Box<Table>),
}

/// Reads primary and backup, without regard to the MBR.
pub(super) fn read(disk: &dyn ReadAt) -> Result<Found> {
    let sector = disk.sector_size();
    let blocks = disk.size() / u64::from(sector.bytes());
    if blocks < 3 {
        return Ok(Found::None);
    }
    let end = blocks - 1;
    let primary = copy(disk, 1, blocks)?;
    let backup_block = match &primary {
        Ok(copy) if copy.header.alternate < blocks => copy.header.alternate,
        _ => end,
    };
    let backup = copy(disk, backup_block, blocks)?;
    let mut faults = Vec::new();
    let used = match (primary, backup) {
        (Ok(primary), Ok(backup)) => {
            let same = primary.header.guid == backup.header.guid && primary.array == backup.array;
            faults.extend((!same).then_some(Fault::CopiesDiffer));
            primary
        }
        (Ok(primary), Err(reason)) => {
            faults.push(Fault::BackupDead { reason });
            primary
        }
        (Err(reason), Ok(backup)) => {
            faults.push(Fault::PrimaryDead { reason });
            backup
        }
        (Err(primary), Err(backup)) if primary == NO_SIGNATURE && backup == NO_SIGNATURE => {
            return Ok(Found::None);
        }
        (Err(primary), Err(backup)) => {
            return Ok(Found::Damaged(format!("primary: {primary}; backup: {backup}")));
        }
    };
    if backup_block != end || used.header.alternate >= blocks {
        let at = used.header.alternate.saturating_mul(u64::from(sector.bytes()));
        faults.push(Fault::BackupNotAtEnd { at });
    }
    Ok(Found::Table(Box::new(table(used, sector, faults))))
}

const NO_SIGNATURE: &str = "no GPT signature";

/// A header and its array, both with good checksums.
struct Copy {
    header: Header,
    array: Vec<u8>,
}

/// The copy whose header is at `block`, or what is wrong with it. The outer error is the disk's.
fn copy(disk: &dyn ReadAt, block: u64, blocks: u64) -> Result<std::result::Result<Copy, String>> {
    let sector = disk.sector_size();
    let size = u64::from(sector.bytes());
    let mut bytes = vec![0; sector.bytes() as usize];
    disk.read_at(block * size, &mut bytes)?;
    let header = match Header::parse(&bytes, block) {
        Ok(header) => header,
        Err(reason) => return Ok(Err(reason)),
    };
    let inside = header.entries.checked_add(header.array_blocks(sector)).is_some_and(|end| end <= blocks);
    if !inside || header.entries == 0 {
        return Ok(Err(format!("its entries lie at block {}, outside the disk", header.entries)));
    }
    // At most MOST_ARRAY bytes, checked by `parse`.
    let mut array = vec![0; usize::try_from(header.array_bytes()).unwrap_or(0)];
    disk.read_at(header.entries * size, &mut array)?;
    if crc(&array) != header.entries_crc {
        return Ok(Err("the checksum of its entries is wrong".to_owned()));
    }
    Ok(Ok(Copy { header, array }))
}

fn table(copy: Copy, sector: SectorSize, mut faults: Vec<Fault>) -> Table {
    let mut partitions = Vec::new();
    for (number, entry) in (1..).zip(copy.array.chunks_exact(copy.header.entry_size)) {
        if let Some((first, last)) = extent(entry) {
            if last < first {
                faults.push(Fault::BadEntry { number });
                continue;
            }
            if first < copy.header.first || last > copy.header.last {
                faults.push(Fault::OutsideUsable { number });
            }
            partitions.push(partition(number, entry, first, last, sector));
        }
    }
    Table { kind: Kind::Gpt, id: guid_text(&copy.header.guid), sector, partitions, faults }
}

/// First and last block of an entry in use.
pub(super) fn extent(entry: &[u8]) -> Option<(u64, u64)> {
    (entry.len() >= 128 && entry[..16] != [0; 16]).then(|| (le64(entry, 32), le64(entry, 40)))
}

fn partition(number: u32, entry: &[u8], first: u64, last: u64, sector: SectorSize) -> Partition {
    let size = u64::from(sector.bytes());
    let mut guids = [[0; 16]; 2];
    guids[0].copy_from_slice(&entry[..16]);
    guids[1].copy_from_slice(&entry[16..32]);
    let name: Vec<u16> = entry[56..128]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|&unit| unit != 0)
        .collect();
    let attributes = le64(entry, 48);
    Partition {
        number,
        start: first.saturating_mul(size),
        length: (last - first).saturating_add(1).saturating_mul(size),
        type_id: guid_text(&guids[0]),
        uuid: guid_text(&guids[1]),
        name: String::from_utf16_lossy(&name),
        bootable: attributes & 0b100 != 0,
        container: false,
    }
}

/// The text of a GUID: the first three fields are little-endian.
fn guid_text(guid: &[u8; 16]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (place, &from) in ORDER.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", guid[from]));
    }
    text
}

/// Adds what the MBR in front of a good GPT has of faults.
pub(super) fn with_record_faults(mut table: Table, record: &Record, blocks: u64) -> Table {
    if record.is_hybrid() {
        table.faults.push(Fault::HybridMbr);
    } else if !record.protective_spans(blocks) {
        table.faults.push(Fault::ProtectiveSize);
    }
    table
}
