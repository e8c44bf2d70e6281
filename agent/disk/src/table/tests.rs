use std::path::Path;

use proptest::prelude::*;

use super::gpt::crc;
use super::*;
use crate::testing::{Memory, blank, good, sfdisk};

const MIB: u64 = 1 << 20;

/// Writes a GPT with two partitions (slots 1 and 15) over a whole disk image.
pub(crate) fn small_gpt(disk: &mut [u8], sector: SectorSize) {
    let size = sector.bytes() as usize;
    let blocks = (disk.len() / size) as u64;
    let array_blocks = (16384 / size) as u64;
    let mut array = vec![0; 16384];
    for (slot, start, last) in [
        (0, MIB / size as u64, 3 * MIB / size as u64 - 1),
        (14, 3 * MIB / size as u64, 4 * MIB / size as u64),
    ] {
        let entry = &mut array[slot * 128..(slot + 1) * 128];
        entry[..16].copy_from_slice(&[
            0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
        ]);
        entry[16..32].fill(slot as u8 + 1);
        entry[32..40].copy_from_slice(&u64::to_le_bytes(start));
        entry[40..48].copy_from_slice(&u64::to_le_bytes(last));
        entry[56] = b'A' + slot as u8;
    }
    let header = |own: u64, other: u64, entries: u64| {
        let mut block = vec![0; size];
        block[..8].copy_from_slice(b"EFI PART");
        block[8..12].copy_from_slice(&[0, 0, 1, 0]);
        block[12..16].copy_from_slice(&92u32.to_le_bytes());
        block[24..32].copy_from_slice(&own.to_le_bytes());
        block[32..40].copy_from_slice(&other.to_le_bytes());
        block[40..48].copy_from_slice(&(2 + array_blocks).to_le_bytes());
        block[48..56].copy_from_slice(&(blocks - 2 - array_blocks).to_le_bytes());
        block[56..72].fill(0x77);
        block[72..80].copy_from_slice(&entries.to_le_bytes());
        block[80..84].copy_from_slice(&128u32.to_le_bytes());
        block[84..88].copy_from_slice(&128u32.to_le_bytes());
        block[88..92].copy_from_slice(&crc(&array).to_le_bytes());
        let sum = crc(&block[..92]);
        block[16..20].copy_from_slice(&sum.to_le_bytes());
        block
    };
    let mut put =
        |block: u64, bytes: &[u8]| disk[block as usize * size..][..bytes.len()].copy_from_slice(bytes);
    put(1, &header(1, blocks - 1, 2));
    put(2, &array);
    put(blocks - 1 - array_blocks, &array);
    put(blocks - 1, &header(blocks - 1, 1, blocks - 1 - array_blocks));
    disk[450] = 0xee;
    disk[454] = 1;
    disk[458..462].copy_from_slice(&(blocks as u32 - 1).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn sample(sector: u32) -> Memory {
    let mut bytes = vec![0; 8 * MIB as usize];
    small_gpt(&mut bytes, sector.try_into().unwrap());
    Memory::new(bytes, sector)
}

fn faults(disk: &Memory) -> Vec<Fault> {
    read(disk).unwrap().unwrap().faults
}

#[test]
fn a_gpt_is_read_with_its_slots_and_names_for_both_sector_sizes() {
    for sector in [512, 4096] {
        let table = read(&sample(sector)).unwrap().unwrap();
        assert_eq!((table.kind, table.faults), (Kind::Gpt, vec![]));
        assert_eq!(table.id, "77777777-7777-7777-7777-777777777777");
        let rows: Vec<_> =
            table.partitions.iter().map(|part| (part.number, part.start, part.name.as_str())).collect();
        assert_eq!(rows, [(1, MIB, "A"), (15, 3 * MIB, "O")]);
        assert_eq!(table.partitions[0].length, 2 * MIB);
        assert_eq!(type_name(&table.partitions[0].type_id), "Linux data");
        assert_eq!(table.partitions[1].uuid, "0f0f0f0f-0f0f-0f0f-0f0f-0f0f0f0f0f0f");
    }
}

/// The `gpt` crate is the second opinion.
#[test]
fn the_gpt_crate_reads_the_same() {
    for sector in [512, 4096] {
        let disk = sample(sector);
        let size = if sector == 512 {
            ::gpt::disk::LogicalBlockSize::Lb512
        } else {
            ::gpt::disk::LogicalBlockSize::Lb4096
        };
        let mut bytes = std::io::Cursor::new(disk.bytes.clone());
        let other = ::gpt::GptConfig::new()
            .writable(false)
            .logical_block_size(size)
            .open_from_device(&mut bytes)
            .unwrap();
        let theirs: Vec<_> = other
            .partitions()
            .iter()
            .map(|(number, part)| {
                (*number, part.first_lba * u64::from(sector), part.part_guid.to_string(), part.name.clone())
            })
            .collect();
        let ours: Vec<_> = read(&disk).unwrap().unwrap().partitions;
        let ours: Vec<_> =
            ours.into_iter().map(|part| (part.number, part.start, part.uuid, part.name)).collect();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn blank_disks_and_filesystems_have_no_table() {
    assert_eq!(read(&Memory::new(vec![0; 4 << 20], 512)).unwrap(), None);
    assert_eq!(read(&Memory::new(vec![], 512)).unwrap(), None);
    assert_eq!(read(&Memory::new(vec![0xff; 700], 512)).unwrap(), None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fat");
    blank(&path, 32 << 20);
    for arguments in [&["-F", "16"][..], &["-F", "12"]] {
        let mut arguments = arguments.to_vec();
        let text = path.display().to_string();
        arguments.push(&text);
        good("mkfs.vfat", &arguments);
        assert_eq!(read(&Memory::new(std::fs::read(&path).unwrap(), 512)).unwrap(), None);
    }
}

#[test]
fn each_damage_has_its_fault() {
    for sector in [512usize, 4096] {
        let end = 8 * MIB as usize;
        let case = |damage: &dyn Fn(&mut Vec<u8>)| {
            let mut disk = sample(sector as u32);
            damage(&mut disk.bytes);
            disk
        };
        let disk = case(&|bytes| bytes[sector + 60] ^= 1);
        assert!(matches!(faults(&disk)[..], [Fault::PrimaryDead { .. }]), "{:?}", faults(&disk));
        assert_eq!(
            read(&disk).unwrap().unwrap().partitions,
            read(&sample(sector as u32)).unwrap().unwrap().partitions
        );
        let disk = case(&|bytes| bytes[2 * sector + 60] ^= 1);
        assert!(matches!(faults(&disk)[..], [Fault::PrimaryDead { .. }]));
        let disk = case(&|bytes| bytes[end - sector] ^= 1);
        assert!(matches!(faults(&disk)[..], [Fault::BackupDead { .. }]));
        let disk = case(&|bytes| bytes.extend(vec![0; MIB as usize]));
        let expected = [Fault::BackupNotAtEnd { at: (end - sector) as u64 }, Fault::ProtectiveSize];
        assert_eq!(faults(&disk), expected);
        let disk = case(&|bytes| bytes.truncate(end - MIB as usize));
        assert!(faults(&disk).iter().any(|fault| matches!(fault, Fault::BackupNotAtEnd { .. })));
        let disk = case(&|bytes| bytes[458] ^= 1);
        assert_eq!(faults(&disk), [Fault::ProtectiveSize]);
        let disk = case(&|bytes| {
            bytes[466] = 0x83;
            bytes[474] = 1;
        });
        assert_eq!(faults(&disk), [Fault::HybridMbr]);
        let disk = case(&|bytes| bytes[510] = 0);
        assert_eq!(faults(&disk), [Fault::NoProtectiveMbr]);
        let disk = case(&|bytes| bytes[450] = 0x83);
        assert_eq!(faults(&disk), [Fault::StaleGpt]);
    }
}

#[test]
fn a_gpt_that_nobody_can_use_is_an_error_with_the_reason() {
    let mut disk = sample(512);
    let end = disk.bytes.len();
    disk.bytes[512 + 60] ^= 1;
    disk.bytes[end - 512 + 60] ^= 1;
    let error = read(&disk).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
    let other = Memory::new(sample(4096).bytes, 512);
    let error = read(&other).unwrap_err().to_string();
    assert!(error.contains("written for sectors of 4096 bytes, this disk has 512"), "{error}");
    assert_eq!(sector_size_of_gpt(&other), Some(4096.try_into().unwrap()));
    assert_eq!(sector_size_of_gpt(&Memory::new(vec![0; 4 << 20], 512)), None);
}

#[test]
fn overlaps_and_partitions_outside_are_named() {
    let part = |number, start, length| Partition {
        number,
        start,
        length,
        uuid: number.to_string(),
        ..Partition::default()
    };
    let table = |partitions| Table {
        kind: Kind::Gpt,
        id: String::new(),
        sector: SectorSize::B512,
        partitions,
        faults: vec![],
    };
    let check = |partitions| fault::of_layout(&table(partitions), 1000);
    assert_eq!(check(vec![part(1, 0, 100), part(2, 100, 100)]), []);
    assert_eq!(check(vec![part(2, 50, 10), part(1, 0, 100), part(3, 70, 10)]).len(), 2);
    assert_eq!(check(vec![part(1, 900, 101)]), [Fault::OutsideDisk { number: 1 }]);
    assert_eq!(check(vec![part(1, u64::MAX, 9)]), [Fault::OutsideDisk { number: 1 }]);
}

fn image(folder: &Path, script: &str) -> Memory {
    let path = folder.join("image");
    blank(&path, 64 << 20);
    sfdisk(&path, &[], script);
    Memory::new(std::fs::read(&path).unwrap(), 512)
}

#[test]
fn an_mbr_with_logical_partitions_is_read_as_sfdisk_wrote_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = "label: dos
        label-id: 0x12345678
        2048,8192,83,*
        10240,4096,82
        16384,65536,5
        image5 : size=2048, type=83
        image6 : size=4096, type=8e
        image7 : size=1024, type=c
";
    let disk = image(folder.path(), script);
    let table = read(&disk).unwrap().unwrap();
    assert_eq!((table.kind, table.id.as_str(), &table.faults[..]), (Kind::Mbr, "12345678", &[][..]));
    let rows: Vec<_> = table
        .partitions
        .iter()
        .map(|part| (part.number, part.type_id.as_str(), part.length / 512, part.bootable, part.container))
        .collect();
    assert_eq!(
        rows,
        [
            (1, "0x83", 8192, true, false),
            (2, "0x82", 4096, false, false),
            (3, "0x05", 65536, false, true),
            (5, "0x83", 2048, false, false),
            (6, "0x8e", 4096, false, false),
            (7, "0x0c", 1024, false, false)
        ]
    );
    assert_eq!(table.partitions[3].uuid, "12345678-05");
    // The starts are those that sfdisk prints.
    let dump = good("sfdisk", &["-d", &folder.path().join("image").display().to_string()]);
    for part in &table.partitions {
        assert!(dump.contains(&format!("start={:>12}", part.start / 512)), "{part:?}\n{dump}");
    }
    // Negative control: a chain bent back on itself ends, and says so.
    let mut bent = disk;
    let link = 16384 * 512;
    bent.bytes[link + 462..link + 478].copy_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert!(matches!(read(&bent).unwrap().unwrap().faults[..], [Fault::BrokenChain { .. }]));
}

#[test]
fn an_mbr_beyond_two_tebibytes_is_a_fault() {
    let table = Table {
        kind: Kind::Mbr,
        id: String::new(),
        sector: SectorSize::B512,
        partitions: vec![],
        faults: vec![],
    };
    assert_eq!(fault::of_layout(&table, 2 << 40), []);
    assert_eq!(fault::of_layout(&table, (2 << 40) + 512), [Fault::BeyondMbr]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever stands on a disk, reading its table ends, and does not panic. Checksums are renewed after the damage in half
    /// of the cases so that the deeper checks are reached.
    #[test]
    fn garbage_never_panics(
        edits in prop::collection::vec((0usize..4096, any::<u8>()), 1..20),
        reseal in any::<bool>(),
        sector in prop::sample::select(vec![512u32, 4096]),
        mbr in any::<bool>(),
    ) {
        let mut disk = sample(sector);
        let size = sector as usize;
        for (at, value) in edits {
            // Fields of interest: the MBR's slots, the header, the first entries.
            let at = match at % 4 { 0 => 440 + at % 72, 1 | 2 => size + at % 96, _ => 2 * size + at };
            disk.bytes[at] = value;
        }
        if mbr {
            disk.bytes[450] = 5;
        }
        if reseal {
            let (entries, count) = (2 * size, 16384);
            let sum = crc(&disk.bytes[entries..entries + count]);
            disk.bytes[size + 88..size + 92].copy_from_slice(&sum.to_le_bytes());
            let header = &mut disk.bytes[size..2 * size];
            header[16..20].fill(0);
            let length = (gpt::le32(header, 12) as usize).min(size);
            let sum = crc(&header[..length]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
        }
        let _ = read(&disk);
    }
}
