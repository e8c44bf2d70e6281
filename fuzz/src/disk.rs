//! What stands on a disk.

use gantry_disk::mark::{self, Date, Mark, Moment};
use gantry_disk::pending::Trace;
use gantry_disk::table::{self, relocate::relocate};
use gantry_disk::{DiskError, ErrorKind, Geometry, Identity, ReadAt, Result, SectorSize, label};

/// Bytes of the disk that an input is laid onto; the rest is zero.
const SIZE: usize = 256 << 10;

struct Memory {
    bytes: Vec<u8>,
    sector: SectorSize,
    identity: Identity,
}

impl Geometry for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn sector_size(&self) -> SectorSize {
        self.sector
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(bytes) = start.checked_add(buffer.len()).and_then(|end| self.bytes.get(start..end)) else {
            return Err(DiskError::new(ErrorKind::Range, "memory", "reading").at(offset));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A partition table: the first byte says how large sectors are and whether a GPT's checksums are put right first (a
/// fuzzer does not guess them), the rest lies at the disk's start.
pub fn table(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let sector = if how & 1 == 0 { SectorSize::B512 } else { four_kib() };
    let mut bytes = vec![0; SIZE];
    let length = rest.len().min(SIZE);
    bytes[..length].copy_from_slice(&rest[..length]);
    if how & 2 != 0 {
        mend_checksums(&mut bytes, sector.bytes() as usize);
    }
    let disk = Memory { bytes, sector, identity: Identity::default() };
    if let Ok(Some(table)) = table::read(&disk) {
        for partition in &table.partitions {
            assert!(partition.end() >= partition.start);
        }
    }
    let _ = table::sector_size_of_gpt(&disk);
    for grown in [SIZE as u64, SIZE as u64 + (1 << 20), 1 << 45] {
        let mut head = disk.bytes.clone();
        match relocate(&mut head, SIZE as u64, grown, sector) {
            Ok(moved) => {
                let writes = moved.tail_writes.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64));
                for (offset, length) in writes.chain(moved.zero) {
                    assert!(offset.checked_add(length).is_some_and(|end| end <= grown));
                }
            }
            Err(_) => assert!(head == disk.bytes, "unchanged after an error"),
        }
    }
}

fn four_kib() -> SectorSize {
    SectorSize::try_from(4096).unwrap_or(SectorSize::B512)
}

/// UEFI 2.10, 5.3.2: the header's checksum at 16 (itself counted as zero), that of the entries at 88.
fn mend_checksums(bytes: &mut [u8], sector: usize) {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let field = |bytes: &[u8], at: usize| {
        bytes[sector + at..sector + at + 4].iter().rev().fold(0_usize, |n, byte| n << 8 | usize::from(*byte))
    };
    let (header, lba) = (field(bytes, 12), field(bytes, 72));
    let entries = field(bytes, 80).checked_mul(field(bytes, 84));
    let range = lba.checked_mul(sector).and_then(|start| Some(start..start.checked_add(entries?)?));
    if let Some(entries) = range.and_then(|range| bytes.get(range)) {
        let sum = crc.checksum(entries).to_le_bytes();
        bytes[sector + 88..sector + 92].copy_from_slice(&sum);
    }
    bytes[sector + 16..sector + 20].fill(0);
    if let Some(header) = bytes[sector..].get(..header) {
        let sum = crc.checksum(header).to_le_bytes();
        bytes[sector + 16..sector + 20].copy_from_slice(&sum);
    }
}

/// A head: our label of an unfinished replica at its start; our mark of a finished one, or the record of one that is being
/// committed, (the last KiB of the input) at its place.
pub fn head(bytes: &[u8]) {
    let mut head = vec![0; label::HEAD];
    let (front, kib) = bytes.split_at(bytes.len().saturating_sub(mark::LENGTH));
    let front = &front[..front.len().min(mark::OFFSET)];
    head[..front.len()].copy_from_slice(front);
    head[mark::OFFSET..mark::OFFSET + kib.len()].copy_from_slice(kib);
    unfinished(&head);
    finished(&head);
}

/// A label that is read is written as it was.
fn unfinished(head: &[u8]) {
    if let Some(trace) = Trace::read(head) {
        let _ = trace.may_be_taken_up(&trace.label().job, &[Some(trace.clone())]);
    }
    let Some(label) = label::parse(head) else { return };
    let mut again = vec![0; label::HEAD];
    again[..512].copy_from_slice(&label.sector_0(512));
    let map = label.map_block();
    let start = label::Label::MAP_OFFSET as usize;
    again[start..start + map.len()].copy_from_slice(&map);
    assert_eq!(label::parse(&again), Some(label));
}

/// A mark that is read is written as it was; one that is placed is read and cleared.
fn finished(head: &[u8]) {
    let Some(date) = Date::parse("2026-11-23") else { return };
    let now = Moment { date, hour: 12 };
    if let Some(mark) = mark::read(head) {
        let _ = mark.is_live("uuid", now);
        // One that is too long for its place is cut, and then is none.
        assert!(Mark::decode(&mark.encode()).is_none_or(|again| again == mark));
    }
    for sector in [SectorSize::B512, four_kib()] {
        let mut placed = head.to_vec();
        let mark = Mark::new("session", "job", "uuid", now);
        match mark::place(&mut placed, sector, &mark) {
            Ok(()) => {
                assert_eq!(mark::read(&placed), Some(mark));
                assert!(mark::clear(&mut placed) && mark::read(&placed).is_none());
            }
            Err(_) => assert!(placed == head, "unchanged after an error"),
        }
    }
}
