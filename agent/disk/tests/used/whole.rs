//! Whole disks: tables, gaps, partitions of all kinds.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_disk::used::{Part, UsedMap};

use crate::ext::Sized;
use crate::poison::{self, Random, Subject, good};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;

/// A disk of 128 MiB, partitioned by a script of sfdisk.
struct Disk {
    folder: tempfile::TempDir,
    image: PathBuf,
}

impl Disk {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk");
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let disk = Self { folder, image };
        disk.table(script);
        disk
    }

    fn table(&self, script: &str) {
        let file = self.folder.path().join("script");
        std::fs::write(&file, script).unwrap();
        good(
            "sh",
            &["-c", &format!("sfdisk -q -w never -W never {} < {}", self.image.display(), file.display())],
        );
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(&self.image).unwrap().write_all_at(bytes, at).unwrap();
    }

    /// A file of so many MiB, filled by `tool`, becomes the content of a partition.
    fn put(&self, at: u64, size: u64, tool: &[&str]) {
        let file = self.folder.path().join("content");
        File::create(&file).unwrap().set_len(size * MIB).unwrap();
        let path = file.display().to_string();
        good(tool[0], &[&tool[1..], &[&path]].concat());
        self.write(at * MIB, &std::fs::read(&file).unwrap());
    }

    fn read(&self, image: &Path, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(image).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn map(&self) -> UsedMap {
        poison::maps(std::slice::from_ref(&self.image)).disks.remove(0)
    }

    fn poisoned(&self, map: &UsedMap) -> PathBuf {
        let copy = self.folder.path().join("copy");
        poison::poisoned_copy(&self.image, &copy, &map.used);
        copy
    }
}

fn summary(parts: &[Part]) -> Vec<(u64, u64, &str, bool)> {
    parts
        .iter()
        .map(|part| (part.start / MIB, part.size / MIB, part.kind.as_str(), part.doubt.is_some()))
        .collect()
}

#[test]
fn a_gpt_disk_keeps_tables_gaps_and_what_is_not_known() {
    let disk = Disk::new(
        "label: gpt\nstart=2048, size=16384, type=U\nstart=20480, size=65536\nstart=100MiB, size=8MiB, type=S\n\
         start=110MiB, size=8MiB\n",
    );
    disk.put(1, 8, &["mkfs.vfat"]);
    let made = poison::made(&Sized(32 * MIB), 3, 30);
    disk.write(10 * MIB, &std::fs::read(&made.image).unwrap());
    disk.put(100, 8, &["mkswap"]);
    // Between partitions, in one that nobody knows, and behind all of them.
    let places = [9 * MIB + 5, 50 * MIB, 99 * MIB, 112 * MIB, 125 * MIB];
    places.iter().for_each(|&at| disk.write(at, b"somebody's data"));
    let map = disk.map();
    assert_eq!(map.doubt, None);
    assert_eq!(
        summary(&map.parts),
        [(1, 8, "vfat", true), (10, 32, "ext4", false), (100, 8, "swap", false), (110, 8, "", true)]
    );
    assert_eq!((map.parts[2].used, map.parts[3].used), (128 << 10, 8 * MIB));
    assert!(map.parts[1].used < 16 * MIB && map.used.total() < SIZE - 16 * MIB);
    let copy = disk.poisoned(&map);
    let name = |path: &Path| path.display().to_string();
    good("sfdisk", &["--verify", &name(&copy)]);
    let table = |path: &Path| good("sfdisk", &["-d", &name(path)]).replace(&name(path), "");
    assert_eq!(table(&disk.image), table(&copy));
    places.iter().for_each(|&at| assert_eq!(disk.read(&copy, at, 15), b"somebody's data"));
    let partition = disk.folder.path().join("partition");
    std::fs::write(&partition, disk.read(&copy, 10 * MIB, 32 << 20)).unwrap();
    poison::intact(&Sized(0), &made, &partition);
}

#[test]
fn an_mbr_disk_keeps_the_links_of_its_logical_partitions() {
    let disk = Disk::new(
        "label: dos\nstart=2048, size=8MiB, type=82\nstart=20MiB, size=100MiB, type=5\nstart=24MiB, size=32MiB\nstart=60MiB, size=32MiB\n",
    );
    disk.put(1, 8, &["mkswap"]);
    disk.put(24, 32, &["mke2fs", "-q", "-F", "-t", "ext2"]);
    disk.put(60, 32, &["mke2fs", "-q", "-F", "-t", "ext3"]);
    let map = disk.map();
    assert_eq!(
        summary(&map.parts),
        [(1, 8, "swap", false), (24, 32, "ext2", false), (60, 32, "ext3", false)]
    );
    let copy = disk.poisoned(&map);
    let table = |path: &Path| {
        good("sfdisk", &["-d", &path.display().to_string()]).replace(&path.display().to_string(), "")
    };
    assert_eq!(table(&disk.image), table(&copy));
}

#[test]
fn a_disk_without_a_table_is_one_filesystem() {
    let disk = Disk::new("label: dos\n");
    disk.put(0, 128, &["mke2fs", "-q", "-F", "-t", "ext4"]);
    let map = disk.map();
    assert_eq!(summary(&map.parts), [(0, 128, "ext4", false)]);
    assert!(map.used.total() < 32 * MIB);
    let copy = disk.poisoned(&map);
    Sized(0).check(&copy).unwrap();
    // Nothing at all is not known to be free.
    let blank = Disk::new("label: dos\n");
    blank.write(0, &[0; 512]);
    let map = blank.map();
    assert_eq!((map.used.total(), summary(&map.parts)), (SIZE, vec![(0, 128, "", true)]));
}

/// One ext4 in the middle of the disk.
fn usual(table: &str) -> Disk {
    let disk = Disk::new(table);
    disk.put(10, 64, &["mke2fs", "-q", "-F", "-t", "ext4"]);
    disk
}

#[test]
fn a_table_that_is_not_certain_makes_the_whole_disk_used() {
    let gpt = "label: gpt\nstart=10MiB, size=64MiB\n";
    let sound = usual(gpt).map();
    assert!(sound.doubt.is_none() && sound.used.total() < SIZE - 32 * MIB, "{sound:?}");
    let dead_backup = usual(gpt);
    dead_backup.write(SIZE - 512, &[0; 512]);
    assert_eq!(dead_backup.map().used, sound.used);

    let whole = |disk: &Disk, words: &str| {
        let map = disk.map();
        let doubt = map.doubt.as_ref().unwrap_or_else(|| panic!("{words}: {map:?}"));
        assert!(doubt.contains(words), "{doubt}");
        assert_eq!(map.used.total(), SIZE);
    };
    let dead = usual(gpt);
    dead.write(512, &[0; 512]);
    dead.write(SIZE - 512, &[0; 512]);
    whole(&dead, "no good GPT");
    let unprotected = usual(gpt);
    unprotected.write(0, &[0; 512]);
    whole(&unprotected, "without a protective MBR");
    let stale = usual(gpt);
    let other = Disk::new("label: dos\nstart=10MiB, size=64MiB\n");
    stale.write(0, &other.read(&other.image, 0, 512));
    whole(&stale, "an old GPT");
    // A filesystem on the whole disk, and a table written over its first sector.
    let both = Disk::new("label: dos\n");
    both.put(0, 128, &["mke2fs", "-q", "-F", "-t", "ext4"]);
    both.write(0, &other.read(&other.image, 0, 512));
    whole(&both, "as a whole ext4 too");
    let overlapping = usual("label: dos\nstart=10MiB, size=64MiB\nstart=80MiB, size=8MiB\n");
    overlapping.write(446 + 16 + 8, &(20u32 * 2048).to_le_bytes());
    whole(&overlapping, "overlap");
}

#[test]
fn a_dynamic_disk_of_windows_is_not_looked_into() {
    for table in [
        "label: dos\nstart=10MiB, size=64MiB, type=42\n",
        "label: gpt\nstart=10MiB, size=64MiB, type=AF9B60A0-1431-4F62-BC68-3311714A69AD\n",
    ] {
        let map = usual(table).map();
        assert!(map.parts[0].doubt.as_ref().unwrap().contains("dynamic"), "{map:?}");
        assert_eq!(map.parts[0].used, 64 * MIB);
    }
}

/// A hibernated system anywhere means that every disk of the machine is copied whole.
#[test]
fn a_sleeping_system_makes_all_disks_used() {
    let awake = usual("label: gpt\nstart=10MiB, size=64MiB\n");
    let asleep = Disk::new("label: gpt\nstart=10MiB, size=64MiB\n");
    asleep.put(10, 64, &["mkswap"]);
    let images = [awake.image.clone(), asleep.image.clone()];
    assert!(poison::maps(&images).disks.iter().all(|map| map.used.total() < SIZE / 2 + 32 * MIB));
    asleep.write(10 * MIB + 4086, b"S1SUSPEND\0");
    for map in poison::maps(&images).disks {
        assert_eq!(map.used.total(), SIZE);
        assert!(map.doubt.unwrap().contains("partition 1: a hibernated system"));
    }
}

/// Random bytes over everything that is read: an answer, never a panic, and what is in doubt is whole.
#[test]
fn random_damage_to_a_disk_ends_with_an_answer() {
    let disk = usual("label: gpt\nstart=10MiB, size=64MiB\n");
    let sound = disk.map();
    let mut random = Random(poison::seeds(1).start);
    for _ in 0..60 {
        let at =
            *random.pick(&[0, 512, 1024, SIZE - 33 * 512, SIZE - 512, 10 * MIB + 1024]) + random.below(512);
        let before = disk.read(&disk.image, at, 16.min((SIZE - at) as usize));
        let bytes: Vec<u8> = before.iter().map(|_| random.next() as u8).collect();
        disk.write(at, &bytes);
        let found = disk.map();
        let lost = found.used.complement(SIZE).find(|gap| sound.used.touches(gap.clone()));
        assert!(lost.is_none(), "byte {at}: the map lost something in {lost:?}");
        disk.write(at, &before);
    }
}

#[test]
fn partitions_of_every_known_kind_are_looked_into() {
    let disk = Disk::new(
        "label: gpt\nstart=1MiB, size=48MiB\nstart=49MiB, size=40MiB\nstart=89MiB, size=16MiB\n\
         start=105MiB, size=16MiB\n",
    );
    disk.put(1, 48, &["mkfs.xfs", "-q", "--unsupported"]);
    disk.put(49, 40, &["mkfs.btrfs", "-q", "--mixed"]);
    disk.put(89, 16, &["mkntfs", "-q", "-F", "-Q", "-p", "2048", "-s", "512", "-H", "16", "-S", "63"]);
    disk.put(105, 16, &["mke2fs", "-q", "-F", "-t", "ext4"]);
    let map = disk.map();
    assert_eq!(
        summary(&map.parts),
        [(1, 48, "xfs", false), (49, 40, "btrfs", false), (89, 16, "ntfs", false), (105, 16, "ext4", false)]
    );
    let used: Vec<u64> = map.parts.iter().map(|part| part.used / MIB).collect();
    assert!(used.iter().zip([30, 8, 8, 8]).all(|(used, most)| *used <= most), "{used:?}");
}
