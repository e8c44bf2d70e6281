use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::table::tests::small_gpt;
use crate::table::{self, Fault, Kind};
use crate::testing::{Memory, blank, good, sfdisk, tool};

const MIB: usize = 1 << 20;

fn sample(sector: SectorSize, size: usize) -> Vec<u8> {
    let mut disk = vec![0; size];
    small_gpt(&mut disk, sector);
    disk
}

/// Copies `source` to a disk of `target` bytes, relocates, and does what the relocation says.
fn cross(source: &[u8], target: usize, sector: SectorSize) -> Result<(Vec<u8>, Relocation)> {
    let mut head = source[..MIB].to_vec();
    let relocation = relocate(&mut head, source.len() as u64, target as u64, sector)?;
    let mut disk = source.to_vec();
    disk.resize(target, 0);
    disk[..MIB].copy_from_slice(&head);
    for &(at, length) in &relocation.zero {
        disk[at as usize..(at + length) as usize].fill(0);
    }
    for (at, bytes) in &relocation.tail_writes {
        disk[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
    }
    Ok((disk, relocation))
}

#[test]
fn a_larger_disk_gets_its_backup_at_the_end_and_nothing_else_changes() {
    for sector in [SectorSize::B512, SectorSize::try_from(4096).unwrap()] {
        let source = sample(sector, 8 * MIB);
        let before = table::read(&Memory::new(source.clone(), sector.bytes())).unwrap().unwrap();
        // Also by less than the backup's own size, so that old and new backup overlap.
        for growth in [sector.bytes() as usize, 4 * sector.bytes() as usize, 16384, MIB, 5 * MIB] {
            let (disk, relocation) = cross(&source, 8 * MIB + growth, sector).unwrap();
            let after = table::read(&Memory::new(disk.clone(), sector.bytes())).unwrap().unwrap();
            assert_eq!(after, before, "growth by {growth}: same partitions and no fault");
            assert_eq!(relocation.notes.len(), 3, "{:?}", relocation.notes);
            let changed = (0..MIB).filter(|&at| disk[at] != source[at]).collect::<Vec<_>>();
            let size = sector.bytes() as usize;
            let allowed = |at: &usize| {
                (458..462).contains(at)
                    || [16..20, 32..40, 48..56].iter().any(|field| field.contains(&(at - size)))
            };
            assert!(
                changed.iter().all(|at| *at < 512 && (458..462).contains(at) || *at >= size && allowed(at))
            );
            let middle = 8 * MIB - 16384 - size;
            assert_eq!(disk[MIB..middle], source[MIB..middle]);
        }
        // Negative control: without the relocation the same reader complains.
        let mut grown = source.clone();
        grown.resize(9 * MIB, 0);
        let faults = table::read(&Memory::new(grown, sector.bytes())).unwrap().unwrap().faults;
        assert!(faults.contains(&Fault::ProtectiveSize) && faults.len() == 2, "{faults:?}");
    }
}

#[test]
fn nothing_happens_for_equal_sizes_mbr_disks_and_blank_ones() {
    let gpt = sample(SectorSize::B512, 8 * MIB);
    assert_eq!(cross(&gpt, 8 * MIB, SectorSize::B512).unwrap(), (gpt.clone(), Relocation::default()));
    let mut mbr = vec![0; 8 * MIB];
    mbr[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut stale = gpt;
    stale[450] = 0x83;
    for source in [mbr, stale, vec![0; 8 * MIB]] {
        let (disk, relocation) = cross(&source, 16 * MIB, SectorSize::B512).unwrap();
        assert_eq!(disk[..8 * MIB], source);
        assert!(relocation.tail_writes.is_empty() && relocation.zero.is_empty());
        assert_eq!(relocation.notes.len(), 1);
    }
}

#[test]
fn damage_and_small_targets_are_errors_and_change_nothing() {
    for damage in [512 + 60, 512, 1024 + 3] {
        let mut source = sample(SectorSize::B512, 8 * MIB);
        source[damage] ^= 0x10;
        let mut head = source[..MIB].to_vec();
        let error = relocate(&mut head, 8 << 20, 9 << 20, SectorSize::B512).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsuitable);
        assert_eq!(head, source[..MIB]);
    }
    let source = sample(SectorSize::B512, 8 * MIB);
    assert!(cross(&source, 8 * MIB - 512, SectorSize::B512).unwrap_err().to_string().contains("smaller"));
    assert!(relocate(&mut [0; 700], 1 << 20, 2 << 20, SectorSize::B512).is_err());
}

#[test]
fn a_partition_in_the_old_backup_is_never_zeroed() {
    let mut source = sample(SectorSize::B512, 8 * MIB);
    let (_, free) = cross(&source, 9 * MIB, SectorSize::B512).unwrap();
    assert_eq!(free.zero, [(8 * MIB as u64 - 33 * 512, 33 * 512)]);
    // A hybrid MBR's partition reaches over it.
    source[462..478].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x20, 0, 0]);
    let (_, hybrid) = cross(&source, 9 * MIB, SectorSize::B512).unwrap();
    assert_eq!(hybrid.zero, []);
    assert!(hybrid.notes[0].contains("hybrid"), "{:?}", hybrid.notes);
}

/// A source that grew once and was never repaired: its backup lies in the middle, where nobody may touch it.
#[test]
fn a_backup_that_was_left_behind_stays_and_the_new_one_is_right() {
    let mut source = sample(SectorSize::B512, 8 * MIB);
    source.resize(12 * MIB, 0);
    let (disk, relocation) = cross(&source, 16 * MIB, SectorSize::B512).unwrap();
    assert_eq!(relocation.zero, []);
    assert_eq!(disk[7 * MIB..8 * MIB], source[7 * MIB..8 * MIB]);
    assert_eq!(table::read(&Memory::new(disk, 512)).unwrap().unwrap().faults, []);
}

proptest! {
    /// Whatever a source's head holds, relocation ends in changes inside the target's last MiB, or in an error.
    #[test]
    fn garbage_never_panics(
        edits in prop::collection::vec((440usize..1200, any::<u8>()), 0..16),
        growth in 0usize..3,
        reseal in any::<bool>(),
    ) {
        let mut source = sample(SectorSize::B512, 8 * MIB);
        for (at, value) in edits {
            source[at] = value;
        }
        if reseal {
            let sum = crc(&source[1024..1024 + 16384]);
            source[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
            seal(&mut source[512..1024], 92);
        }
        let target = 8 * MIB + growth * 700 * 512;
        if let Ok((_, relocation)) = cross(&source, target, SectorSize::B512) {
            let inside = |at: u64, length: u64, size: usize| at >= (size - MIB) as u64 && at + length <= size as u64;
            prop_assert!(relocation.tail_writes.iter().all(|(at, bytes)| inside(*at, bytes.len() as u64, target)));
            prop_assert!(relocation.zero.iter().all(|(at, length)| inside(*at, *length, 8 * MIB)));
        }
    }
}

/// A loop device with the wanted sector size, for tools that cannot be told it. Detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn attach(image: &Path, sector: u32) -> Self {
        let image = image.display().to_string();
        let output = tool("losetup", &["-f", "--show", "-b", &sector.to_string(), &image]);
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("/usr/sbin/losetup").arg("-d").arg(&self.0).status();
    }
}

fn judge(image: &Path, sector: u32) -> String {
    let device = Loop::attach(image, sector);
    let text = device.0.display().to_string();
    let verdict = good("sfdisk", &["--verify", &text]);
    let second = good("sgdisk", &["-v", &text]);
    format!("{verdict}{second}")
}

fn is_clean(verdict: &str) -> bool {
    verdict.contains("No errors detected")
        && verdict.contains("No problems found")
        && !verdict.contains("mismatch")
}

/// Random tables made by sfdisk, relocated by us, judged by sfdisk and sgdisk.
#[test]
fn sfdisk_and_sgdisk_find_random_relocated_tables_clean() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() };
    let parts = prop::collection::btree_map(1u32..=20, (1u64..8, "[A-Za-z ]{0,12}"), 0..6);
    let strategy = (
        parts,
        prop::sample::select(vec![512u32, 4096]),
        1usize..64,
        prop::sample::select(vec![128, 192, 64]),
    );
    TestRunner::new(config)
        .run(&strategy, |(parts, sector, growth, length)| {
            let size = SectorSize::try_from(sector).unwrap();
            blank(&image, 64 << 20);
            {
                let device = Loop::attach(&image, sector);
                let mut script = format!("label: gpt\ntable-length: {length}\n");
                for (number, (mib, name)) in &parts {
                    script.push_str(&format!(
                        "{}p{number} : size={mib}MiB, name=\"{name}\"\n",
                        device.0.display()
                    ));
                }
                sfdisk(&device.0, &[], &script);
            }
            let source = std::fs::read(&image).unwrap();
            let target = source.len() + growth * 4096 * 37;
            let (disk, relocation) = cross(&source, target, size).unwrap();
            prop_assert_eq!(relocation.tail_writes.len(), 2);
            std::fs::write(&image, &disk).unwrap();
            let verdict = judge(&image, sector);
            prop_assert!(is_clean(&verdict), "{}", verdict);
            // Entries are untouched, and nobody else's bytes were.
            let entries = 2 * sector as usize;
            prop_assert_eq!(&disk[entries..MIB], &source[entries..MIB]);
            let table = table::read(&Memory::new(disk, sector)).unwrap().unwrap();
            prop_assert_eq!(table.kind, Kind::Gpt);
            prop_assert_eq!(table.partitions.len(), parts.len());
            Ok(())
        })
        .unwrap();
}

/// The judges must be able to say no.
#[test]
fn the_judges_complain_about_a_grown_disk() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut disk = sample(SectorSize::B512, 8 * MIB);
    disk.resize(9 * MIB, 0);
    std::fs::write(&image, disk).unwrap();
    let device = Loop::attach(&image, 512);
    let text = device.0.display().to_string();
    let verdicts: String = [("sfdisk", "--verify"), ("sgdisk", "-v")]
        .iter()
        .map(|(program, flag)| tool(program, &[flag, &text]))
        .map(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        .collect();
    assert!(!is_clean(&verdicts), "{verdicts}");
}
