//! Btrfs: the map under proof by poison.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_disk::ImageFile;
use gantry_disk::used::{Doubt, Ranges, Window, btrfs};

use crate::poison::memory::{Damage, Memory, damage, looked_at};
use crate::poison::{self, Made, Mounted, Random, Subject, Tree, good, run, verdict};

struct Btrfs;

impl Subject for Btrfs {
    fn kind(&self) -> &'static str {
        "btrfs"
    }

    fn make(&self, random: &mut Random, path: &Path) -> String {
        // Not every mixture is allowed; the next one may be.
        for _ in 0..50 {
            let size = 110 + random.below(60);
            File::create(path).unwrap().set_len(size << 20).unwrap();
            let words = options(random);
            let path = path.display().to_string();
            let arguments: Vec<_> = words.split_whitespace().chain([path.as_str()]).collect();
            if run("mkfs.btrfs", &arguments).status.success() {
                return format!("{size} MiB {words}");
            }
        }
        panic!("mkfs.btrfs refuses everything");
    }

    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        btrfs::map(window)
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        verdict("btrfs", &["check", "--readonly", "--check-data-csum", &path.display().to_string()])
    }

    /// Another UUID than the one that the blocks name.
    fn afterwards(&self, random: &mut Random, image: &Path) {
        if random.once_in(3) {
            good("btrfstune", &["-f", "-m", &image.display().to_string()]);
        }
    }

    /// Space that is shared, and space that is given back.
    fn special(&self, random: &mut Random, mounted: &Path) {
        let root = mounted.display().to_string();
        poison::clone_files(random, mounted);
        poison::fragment(mounted);
        for number in 0..2 {
            let snapshot = format!("{root}/snapshot{number}");
            run("btrfs", &["subvolume", "snapshot", &root, &snapshot]);
            let folder = mounted.join(format!("later{number}"));
            if std::fs::create_dir(&folder).is_ok() {
                poison::operate(random, &folder, 20);
            }
            let _kept = std::fs::remove_file(mounted.join(format!("clone{number}")));
            if random.once_in(2) {
                run("btrfs", &["subvolume", "delete", "-c", &snapshot]);
            }
        }
        if random.once_in(3) {
            run("btrfs", &["balance", "start", "-dusage=60", "-musage=60", &root]);
        }
        if random.once_in(3) {
            let less = format!("-{}m", 1 + random.below(20));
            run("btrfs", &["filesystem", "resize", &less, &root]);
        }
    }
}

/// Options of mkfs that change where things are.
fn options(random: &mut Random) -> String {
    let node = *random.pick(&[4096, 16384, 16384, 65536]);
    let checksum = *random.pick(&["crc32c", "crc32c", "xxhash", "sha256", "blake2"]);
    let (data, metadata) = (*random.pick(&["single", "single", "dup"]), *random.pick(&["single", "dup"]));
    let mut features = vec![*random.pick(&["no-holes", "^no-holes"])];
    let mut late = "free-space-tree";
    match random.below(6) {
        0 => late = "^free-space-tree",
        1 => features.push("block-group-tree"),
        2 => features.push("^skinny-metadata"),
        3 => features.push("squota"),
        _ => {}
    }
    let mixed = if random.once_in(5) { "--mixed -n 4096" } else { &format!("-n {node}") };
    let data = if mixed.starts_with("--") { metadata } else { data };
    format!("-q -f -d {data} -m {metadata} --csum {checksum} -O {} -R {late} {mixed}", features.join(","))
}

#[test]
fn what_the_map_leaves_out_is_not_missed() {
    poison::prove_many(&Btrfs, 3, 80, |seed, made, ranges| {
        let file = File::open(&made.image).unwrap();
        let number = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, (64 << 10) + at).unwrap();
            u64::from_le_bytes(bytes)
        };
        // What the superblock counts, once or twice (DUP), the first MiB, a superblock's copy, and what lies behind.
        let (device, counted) = (number(112), number(120));
        let rest = (1 << 20) + 4096 + file.metadata().unwrap().len() - device;
        let ours = ranges.total();
        assert!(
            (counted..=2 * counted + rest).contains(&ours),
            "seed {seed}: the superblock counts {counted}"
        );
        // Partclone leaves out second copies, and copies more of the rest than it needs to.
        if let Some(other) = poison::partclone("btrfs", &made.image) {
            println!("seed {seed}: partclone: {} bytes", other.total());
        }
    });
}

/// The check of the check: one thing left out is missed.
#[test]
fn a_map_that_leaves_out_a_range_is_caught() {
    let made = poison::made(&Btrfs, 7, 40);
    let mut ranges = poison::mapped(&Btrfs, &made.image).unwrap();
    poison::survives(&Btrfs, &made, &ranges);
    let first = ranges.iter().find(|range| range.start > 1 << 20).unwrap();
    ranges.remove(first);
    let caught = std::panic::catch_unwind(|| poison::survives(&Btrfs, &made, &ranges));
    assert!(caught.is_err(), "metadata were poisoned and nobody noticed");
}

#[test]
fn damage_never_makes_a_map_smaller() {
    let made = poison::made(&Btrfs, 11, 60);
    let mut random = Random(poison::seeds(1).start);
    let areas = looked_at(&Btrfs, &made.image);
    for (kind, times) in [(Damage::Bit, 300), (Damage::Bytes, 100)] {
        let (maps, doubts) = damage(&Btrfs, &made.image, &mut random, &kind, &areas, times);
        println!("{maps} maps, {doubts} doubts");
        assert!(doubts > 10);
    }
}

/// Damage under right checksums, as only a liar makes it: any answer will do, but there must be one.
#[test]
fn a_liar_gets_an_answer() {
    let (_folder, image) = formatted(128 << 20, &["-n", "4096", "-m", "dup"]);
    {
        let mounted = Mounted::new(&Btrfs, &image, false);
        poison::operate(&mut Random(3), mounted.path(), 60);
        poison::fragment(mounted.path());
    }
    let blocks: Vec<u64> = looked_at(&Btrfs, &image).iter().flat_map(|area| area.step_by(4096)).collect();
    let mut disk = Memory::new(std::fs::read(&image).unwrap());
    let mut random = Random(poison::seeds(1).start);
    let (mut maps, mut doubts) = (0, 0);
    for _ in 0..400 {
        let at = *random.pick(&blocks) as usize;
        let before = disk.bytes[at..at + 4096].to_vec();
        for _ in 0..1 + random.below(3) {
            // Mostly in heads, where numbers are; often a number of its own kind.
            let reach = *random.pick(&[70, 1000, 4060]);
            let place = 32 + random.below(reach) as usize;
            let any = random.next() as u8;
            let value = *random.pick(&[0, 1, 0x7f, 0xff, any]);
            let length = *random.pick(&[1, 1, 4, 8]);
            disk.bytes[at..at + 4096][place..].iter_mut().take(length).for_each(|byte| *byte = value);
        }
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&disk.bytes[at + 32..at + 4096]);
        disk.bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        match btrfs::map(&Window::whole(&disk)) {
            Ok(_) => maps += 1,
            Err(_) => doubts += 1,
        }
        disk.bytes[at..at + 4096].copy_from_slice(&before);
    }
    println!("{} blocks, {maps} maps, {doubts} doubts", blocks.len());
    assert!(maps > 10 && doubts > 100);
}

/// Nothing is overwritten in place, so what a crash leaves is the last commit and perhaps a log.
#[test]
fn after_a_crash_the_last_commit_is_mapped_and_a_log_is_in_doubt() {
    let made = poison::made(&Btrfs, poison::seeds(1).start, 40);
    let (crashed, logged) = (made.folder.path().join("crashed"), made.folder.path().join("logged"));
    let mounted = Mounted::new(&Btrfs, &made.image, false);
    let mut random = Random(7);
    let folder = mounted.path().join("later");
    std::fs::create_dir(&folder).unwrap();
    poison::operate(&mut random, &folder, 30);
    good("sync", &["-f", &folder.display().to_string()]);
    std::fs::copy(&made.image, &crashed).unwrap();
    let promised = File::create(folder.join("promised")).unwrap();
    promised.write_all_at(&[7; 10000], 0).unwrap();
    promised.sync_all().unwrap();
    std::fs::copy(&made.image, &logged).unwrap();
    drop((promised, mounted));

    let doubt = poison::mapped(&Btrfs, &logged).unwrap_err();
    assert!(doubt.reason.contains("log must be replayed"), "{doubt}");
    let ranges = poison::mapped(&Btrfs, &crashed).unwrap();
    let tree = Tree::read(Mounted::new(&Btrfs, &crashed, true).path());
    let made = Made { image: crashed, tree, ..made };
    poison::survives(&Btrfs, &made, &ranges);
}

fn formatted(size: u64, options: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(size).unwrap();
    good("mkfs.btrfs", &[&["-q", "-f"], options, &[&image.display().to_string()]].concat());
    (folder, image)
}

/// Writes a number into the superblock and mends its checksum.
fn write_superblock(image: &Path, at: usize, value: u64) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, 64 << 10).unwrap();
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&block[32..]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    file.write_all_at(&block, 64 << 10).unwrap();
}

#[test]
fn what_is_not_known_or_not_here_is_in_doubt() {
    let cases = [
        (188, 0x341 | 1 << 12, "unknown incompatible features"),
        (188, 0x341 | 1 << 13, "unknown incompatible features"),
        (188, 0x341 | 1 << 14, "unknown incompatible features"),
        (180, 0x13, "unknown read-only compatible features"),
        (56, 1 | 1 << 32, "seed"),
        (56, 1 | 1 << 2, "errors or of a conversion"),
        (136, 2, "several devices"),
        (96, 30 << 20, "log must be replayed"),
        (72, 77, "another commit"),
        (120, 77, "counts 77 bytes"),
        (112, 150 << 20, "sizes"),
    ];
    let (_folder, image) = formatted(128 << 20, &[]);
    poison::mapped(&Btrfs, &image).unwrap();
    let original = std::fs::read(&image).unwrap();
    for (at, value, reason) in cases {
        write_superblock(&image, at, value);
        let doubt = poison::mapped(&Btrfs, &image).unwrap_err();
        assert!(doubt.reason.contains(reason), "{at}: {doubt}");
        File::options().write(true).open(&image).unwrap().write_all_at(&original[..1 << 20], 0).unwrap();
    }
    File::options().write(true).open(&image).unwrap().set_len(127 << 20).unwrap();
    assert!(poison::mapped(&Btrfs, &image).unwrap_err().reason.contains("larger than its partition"));
}

#[test]
fn several_devices_are_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let images = ["one", "two"].map(|name| folder.path().join(name));
    for image in &images {
        File::create(image).unwrap().set_len(256 << 20).unwrap();
    }
    let [one, two] = images.each_ref().map(|image| image.display().to_string());
    good("mkfs.btrfs", &["-q", "-f", "-d", "raid0", "-m", "raid1", &one, &two]);
    for image in &images {
        assert!(poison::mapped(&Btrfs, image).unwrap_err().reason.contains("several devices"));
    }
}

#[test]
fn an_almost_empty_tebibyte_costs_little() {
    let (_folder, image) = formatted(1 << 40, &[]);
    let disk = ImageFile::open_source(&image).unwrap();
    let window = Window::whole(&disk);
    let start = std::time::Instant::now();
    let used = btrfs::map(&window).unwrap().total();
    let (reads, bytes) = window.cost();
    println!("1 TiB: {used} bytes used, {reads} reads, {bytes} bytes, {:?}", start.elapsed());
    assert!(reads < 100 && bytes < 8 << 20 && used < 16 << 20);
}
