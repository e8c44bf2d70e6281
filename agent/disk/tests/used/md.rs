//! Arrays of Linux software RAID. The superblocks are written here and judged by `mdadm --examine`; the stripes are placed by
//! a description of each layout row by row, unlike the formulas under test.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_disk::used::UsedMaps;

use crate::ext::Sized;
use crate::poison::{self, Random, Subject, good, maps, run};

const MIB: u64 = 1 << 20;
/// Where data start on a member, and how much a member holds.
const DATA: u64 = 2 * MIB;
const SIZE: u64 = 12 * MIB;

/// An array of members as image files.
struct Array {
    folder: tempfile::TempDir,
    level: i32,
    layout: u32,
    chunk: u64,
    images: Vec<PathBuf>,
}

impl Array {
    fn new(level: i32, layout: u32, members: usize, chunk: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<_> =
            (0..members).map(|number| folder.path().join(format!("member{number}"))).collect();
        let array = Self { folder, level, layout, chunk, images };
        for (role, image) in array.images.iter().enumerate() {
            File::create(image).unwrap().set_len(DATA + SIZE + MIB).unwrap();
            array.superblock(role, 7, |_| {});
        }
        array
    }

    /// Version 1.2, in sync; `change` may spoil it before the checksum is made.
    fn superblock(&self, role: usize, events: u64, change: impl Fn(&mut [u8])) {
        let mut raw = vec![0; 256 + 2 * self.images.len()];
        let mut put = |at: usize, bytes: &[u8]| raw[at..at + bytes.len()].copy_from_slice(bytes);
        let long = |number: u64| number.to_le_bytes();
        let word = |number: u32| number.to_le_bytes();
        put(0, &word(0xa92b_4efc));
        put(4, &word(1));
        put(16, &[7; 16]);
        put(32, b"host:data");
        put(72, &word(self.level as u32));
        put(76, &word(self.layout));
        put(80, &long(if self.level == 0 { 0 } else { SIZE / 512 }));
        put(88, &word((self.chunk / 512) as u32));
        put(92, &word(self.images.len() as u32));
        put(128, &long(DATA / 512));
        put(136, &long(SIZE / 512));
        put(144, &long(8));
        put(160, &word(role as u32));
        put(168, &[role as u8 + 1; 16]);
        put(200, &long(events));
        put(208, &long(u64::MAX));
        put(220, &word(self.images.len() as u32));
        for member in 0..self.images.len() {
            put(256 + 2 * member, &(member as u16).to_le_bytes());
        }
        change(&mut raw);
        let sum: u64 = raw
            .chunks(4)
            .map(|part| part.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
            .sum();
        raw[216..220].copy_from_slice(&((sum as u32).wrapping_add((sum >> 32) as u32)).to_le_bytes());
        OpenOptions::new().write(true).open(&self.images[role]).unwrap().write_all_at(&raw, 4096).unwrap();
    }

    /// For each row of chunks, what each member holds: the number of a data chunk in the row, or parity.
    fn row(&self, row: usize) -> Vec<Option<usize>> {
        let members = self.images.len();
        match self.level {
            1 => vec![Some(0); members],
            0 => (0..members).map(Some).collect(),
            10 => (0..members).map(|member| Some(member / (self.layout & 0xff) as usize)).collect(),
            level => {
                // Parity walks from the last member to the first (left), or from the first to the last (right).
                let parity =
                    if self.layout.is_multiple_of(2) { members - 1 - row % members } else { row % members };
                let count = if level == 5 { 1 } else { 2 };
                let is_parity = |member: usize| (0..count).any(|step| (parity + step) % members == member);
                let mut holds = vec![None; members];
                let start = if self.layout >= 2 { parity + count } else { 0 };
                let order = (start..start + members)
                    .map(|member| member % members)
                    .filter(|&member| !is_parity(member));
                order.enumerate().for_each(|(number, member)| holds[member] = Some(number));
                holds
            }
        }
    }

    fn chunk(&self) -> u64 {
        if self.level == 1 { MIB } else { self.chunk }
    }

    /// Data chunks of a row.
    fn width(&self) -> u64 {
        self.row(0).iter().flatten().max().map_or(0, |&last| last as u64 + 1)
    }

    fn size(&self) -> u64 {
        SIZE / self.chunk() * self.chunk() * self.width()
    }

    /// Lays the bytes of a file over the members (parity: junk, that nobody reads here).
    fn put(&self, from: &Path) {
        let bytes = std::fs::read(from).unwrap();
        let files: Vec<File> =
            self.images.iter().map(|image| OpenOptions::new().write(true).open(image).unwrap()).collect();
        let chunk = self.chunk() as usize;
        for row in 0..SIZE as usize / chunk {
            for (file, holds) in files.iter().zip(self.row(row)) {
                let at = DATA + (row * chunk) as u64;
                match holds {
                    Some(number) => {
                        let from = (row * self.width() as usize + number) * chunk;
                        file.write_all_at(&bytes[from..from + chunk], at).unwrap();
                    }
                    None => file.write_all_at(&vec![0x77; chunk], at).unwrap(),
                }
            }
        }
    }

    /// Reads the array back from other images of its members; all copies must be the same where `used` says so.
    fn get(&self, images: &[PathBuf], to: &Path) {
        let members: Vec<Vec<u8>> = images.iter().map(|image| std::fs::read(image).unwrap()).collect();
        let (chunk, file) = (self.chunk() as usize, File::create(to).unwrap());
        for row in 0..SIZE as usize / chunk {
            for (bytes, holds) in members.iter().zip(self.row(row)) {
                let from = DATA as usize + row * chunk;
                if let Some(number) = holds {
                    let at = ((row * self.width() as usize + number) * chunk) as u64;
                    file.write_all_at(&bytes[from..from + chunk], at).unwrap();
                }
            }
        }
    }

    fn poisoned(&self, maps: &UsedMaps) -> Vec<PathBuf> {
        let copies: Vec<_> = self.images.iter().map(|image| image.with_extension("copy")).collect();
        for ((image, copy), map) in self.images.iter().zip(&copies).zip(&maps.disks) {
            poison::poisoned_copy(image, copy, &map.used);
        }
        copies
    }
}

#[test]
fn what_no_stripe_of_a_filesystem_uses_is_not_missed() {
    let table = [
        (1, 0, 2, 0),
        (0, 0, 3, 64 << 10),
        (0, 0, 2, 512 << 10),
        (5, 0, 3, 64 << 10),
        (5, 1, 4, 64 << 10),
        (5, 2, 3, 512 << 10),
        (5, 3, 4, 4 << 10),
        (6, 0, 4, 64 << 10),
        (6, 1, 5, 16 << 10),
        (6, 2, 5, 64 << 10),
        (6, 3, 4, 64 << 10),
        (10, 0x102, 4, 64 << 10),
        (10, 0x103, 3, 64 << 10),
    ];
    let mut filesystems = HashMap::new();
    for (level, layout, members, chunk) in table {
        let array = Array::new(level, layout, members, chunk);
        let what = format!("RAID {level}, layout {layout}, {members} members, chunks of {chunk}");
        let text = poison::words(&run("mdadm", &["--examine", &array.images[0].display().to_string()]));
        assert!(text.contains(" - correct") && text.contains(&format!("Raid Level : raid{level}")), "{text}");
        let made = match filesystems.entry(array.size()) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => {
                let made = poison::made(&Sized(array.size()), level as u64, 20);
                place.insert(made)
            }
        };
        array.put(&made.image);
        let maps = maps(&array.images);
        let volume = &maps.volumes[0];
        assert_eq!(
            (volume.kind.as_str(), &volume.doubt, volume.size),
            ("ext4", &None, array.size()),
            "{what}: {maps:?}"
        );
        let used: u64 = maps.disks.iter().map(|map| map.used.total()).sum();
        assert!(used < (DATA + SIZE) * members as u64, "{what}: {used} used");
        let copies = array.poisoned(&maps);
        let back = array.folder.path().join("back");
        array.get(&copies, &back);
        poison::intact(&Sized(0), made, &back);
        println!("{what}: {used} of {} bytes used", (DATA + SIZE + MIB) * members as u64);
        // Parity lies wherever data of its row do.
        for row in 0..(SIZE / array.chunk()) as usize {
            let range = DATA + row as u64 * array.chunk()..DATA + (row as u64 + 1) * array.chunk();
            let holds = array.row(row);
            let any = holds
                .iter()
                .zip(&maps.disks)
                .any(|(holds, map)| holds.is_some() && map.used.touches(range.clone()));
            for (holds, map) in holds.iter().zip(&maps.disks).filter(|(holds, _)| holds.is_none()) {
                let whole = map.used.total_in(&range) == array.chunk();
                assert!(!any || whole, "{what}: row {row} {holds:?}: parity is left out");
            }
        }
    }
}

/// Each row: a member's superblock after a change, and words of the doubt.
type Spoil = (fn(&mut [u8]), &'static str);

#[test]
fn an_array_that_is_not_certain_is_used_as_a_whole() {
    let whole = |maps: &UsedMaps, words: &str| {
        for map in &maps.disks {
            assert_eq!(map.used.total(), DATA + SIZE + MIB, "{words}");
        }
        let doubts: Vec<_> = maps.disks.iter().filter_map(|map| map.parts[0].doubt.as_deref()).collect();
        assert!(doubts.iter().any(|doubt| doubt.contains(words)), "{words}: {doubts:?}");
    };
    let fill = |array: &Array| {
        let file = array.folder.path().join("content");
        filesystem(&file, array.size());
        array.put(&file);
    };
    let spoils: [Spoil; 6] = [
        (|raw| raw[208..216].copy_from_slice(&0u64.to_le_bytes()), "not clean"),
        (|raw| raw[8] = 2, "being rebuilt or reshaped"),
        (|raw| raw[8] = 4, "being rebuilt or reshaped"),
        (|raw| raw[138] = 9, "another size"),
        (|raw| raw[76] = 17, "layout that is not looked into"),
        (|raw| raw[256..258].fill(0xff), "spare or faulty"),
    ];
    for (change, words) in spoils {
        let array = Array::new(5, 2, 3, 64 << 10);
        fill(&array);
        (0..3).for_each(|role| array.superblock(role, 7, change));
        let maps = maps(&array.images);
        if words.starts_with("spare") {
            // The first is; the others miss it.
            assert!(maps.disks[0].parts[0].doubt.as_ref().unwrap().contains(words));
        } else {
            whole(&maps, words);
        }
    }
    let array = Array::new(5, 2, 3, 64 << 10);
    fill(&array);
    assert!(maps(&array.images).volumes[0].doubt.is_none());
    whole(&maps(&array.images[1..]), "members that are not here");
    array.superblock(1, 6, |_| {});
    whole(&maps(&array.images), "one of them is stale");
    let mirror = Array::new(1, 0, 2, 0);
    fill(&mirror);
    assert!(maps(&mirror.images[1..]).volumes[0].doubt.is_none(), "half a mirror is all of its data");
    whole(&maps(&[mirror.images[0].clone(), mirror.images[0].clone()]), "in one place");
}

fn filesystem(path: &Path, size: u64) {
    Sized(size).make(&mut Random(1), path);
}

/// The usual stack of a server: a volume group on a mirror.
#[test]
fn a_volume_group_on_a_mirror_is_looked_into() {
    let mirror = Array::new(1, 0, 2, 0);
    let path = mirror.folder.path().join("content");
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    let device = gantry_disk::loops::Loop::attach(&path, gantry_disk::loops::Shown::default()).unwrap();
    let node = device.node().display().to_string();
    let config = format!(
        "devices{{use_devicesfile=0 scan=[\"/dev\"] filter=[\"a|^{node}$|\",\"r|.*|\"]}} backup{{backup=0 archive=0}}"
    );
    let lvm = |line: &str| {
        let words: Vec<&str> = line
            .split_whitespace()
            .chain([node.as_str(), "--driverloaded", "n", "--config", &config])
            .collect();
        good("lvm", &words);
    };
    lvm("pvcreate -y");
    lvm("vgcreate -s 1m vg0");
    lvm("lvcreate -an -Zn -Wn -L 8m -n root vg0");
    drop(device);
    let inner = mirror.folder.path().join("inner");
    filesystem(&inner, 8 * MIB);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all_at(&std::fs::read(&inner).unwrap(), MIB)
        .unwrap();
    mirror.put(&path);
    let maps = maps(&mirror.images);
    let names: Vec<_> = maps
        .volumes
        .iter()
        .map(|part| (part.name.as_str(), part.kind.as_str(), part.doubt.is_none()))
        .collect();
    assert_eq!(names, [("md array host:data", "LVM2_member", true), ("vg0/root", "ext4", true)]);
    assert!(
        maps.disks.iter().all(|map| map.used.total() < DATA + 8 * MIB + 3 * MIB),
        "free extents are used"
    );
    let copies = mirror.poisoned(&maps);
    for copy in copies {
        let bytes = std::fs::read(copy).unwrap();
        let start = (DATA + MIB) as usize;
        std::fs::write(&inner, &bytes[start..start + 8 * MIB as usize]).unwrap();
        good("e2fsck", &["-fn", &inner.display().to_string()]);
    }
}
