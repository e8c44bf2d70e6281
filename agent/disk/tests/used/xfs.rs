//! XFS: the map under proof by poison.

use std::fs::File;
use std::path::Path;

use gantry_disk::ImageFile;
use gantry_disk::used::{Doubt, Ranges, Window, xfs};

use crate::poison::memory::{Damage, damage, looked_at};
use crate::poison::{self, Mounted, Random, Subject, good, run, verdict};

struct Xfs;

impl Subject for Xfs {
    fn kind(&self) -> &'static str {
        "xfs"
    }

    fn make(&self, random: &mut Random, path: &Path) -> String {
        let groups = 1 + random.below(4);
        let size = 48 * groups + random.below(100);
        let block = *random.pick(&[1024, 2048, 4096, 4096, 4096]);
        let flag = |random: &mut Random, name: &str| format!("{name}={}", random.below(2));
        let reverse = random.below(2);
        let metadata = format!(
            "crc=1,rmapbt={reverse},{},{},{},{}",
            flag(random, "reflink"),
            flag(random, "bigtime"),
            "finobt=1",
            flag(random, "inobtcount"),
        );
        let data = format!("agcount={groups}");
        let sector = *random.pick(&[512, 512, 4096]).min(&block);
        let unit = if block == 4096 && random.once_in(3) { 8 } else { 0 };
        let mut log = format!("size={}b", (18 << 20) / block + random.below(1000) / 8 * 8);
        if unit > 0 {
            log += &format!(",su={}k", unit * 4);
        }
        let inode = format!("sparse={},{}", random.below(2), flag(random, "nrext64"));
        File::create(path).unwrap().set_len(size << 20).unwrap();
        let words = format!(
            "--unsupported -f -q -b size={block} -s size={sector} -m {metadata} -d {data} -l {log} -i {inode} -n ftype=1"
        );
        let path = path.display().to_string();
        let arguments: Vec<_> = words.split(' ').chain([path.as_str()]).collect();
        good("mkfs.xfs", &arguments);
        format!("{size} MiB {words}")
    }

    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        xfs::map(window)
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        verdict("xfs_repair", &["-n", "-f", "-o", "force_geometry", &path.display().to_string()])
    }

    fn special(&self, random: &mut Random, mounted: &Path) {
        poison::clone_files(random, mounted);
        poison::fragment(mounted);
    }
}

#[test]
fn what_the_map_leaves_out_is_not_missed() {
    poison::prove_many(&Xfs, 3, 60, |seed, made, ranges| {
        let Some(other) = poison::partclone("xfs", &made.image) else { return };
        let (ours, theirs) = (ranges.total(), other.total());
        println!("seed {seed}: partclone: {theirs} bytes");
        assert!(ours <= theirs + theirs / 50 + (2 << 20), "seed {seed}: more than partclone");
    });
}

/// The check of the check: one thing left out is missed.
#[test]
fn a_map_that_leaves_out_a_range_is_caught() {
    let made = poison::made(&Xfs, 7, 40);
    let mut ranges = poison::mapped(&Xfs, &made.image).unwrap();
    poison::survives(&Xfs, &made, &ranges);
    ranges.remove(0..512);
    let caught = std::panic::catch_unwind(|| poison::survives(&Xfs, &made, &ranges));
    assert!(caught.is_err(), "metadata were poisoned and nobody noticed");
}

#[test]
fn damage_never_makes_a_map_smaller() {
    let made = poison::made(&Xfs, 11, 60);
    let mut random = Random(poison::seeds(1).start);
    let areas = looked_at(&Xfs, &made.image);
    for (kind, times) in [(Damage::Bit, 300), (Damage::Bytes, 100)] {
        let (maps, doubts) = damage(&Xfs, &made.image, &mut random, &kind, &areas, times);
        println!("{maps} maps, {doubts} doubts");
        assert!(doubts > 10);
    }
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_in_doubt() {
    let made = poison::made(&Xfs, poison::seeds(1).start, 50);
    let mounted = Mounted::new(&Xfs, &made.image, false);
    let mut random = Random(7);
    poison::operate(&mut random, mounted.path(), 30);
    good("sync", &["-f", &mounted.path().display().to_string()]);
    let doubt = poison::mapped(&Xfs, &made.image).unwrap_err();
    assert!(doubt.reason.starts_with("it is not clean"), "{doubt}");
    drop(mounted);
    poison::mapped(&Xfs, &made.image).unwrap();
}

/// An image that only mkfs and xfs_db wrote.
fn formatted(size: u64, options: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image").display().to_string();
    File::create(&image).unwrap().set_len(size).unwrap();
    good("mkfs.xfs", &[&["--unsupported", "-q", "-f"], options, &[&image]].concat());
    (folder, image)
}

#[test]
fn what_is_not_known_or_not_here_is_in_doubt() {
    // Written by the database tool, which mends the checksum.
    let written = [
        ("features_incompat 0x183", "unknown incompatible features (0x183)"),
        ("features_incompat 0x13", "needs xfs_repair"),
        ("features_ro_compat 0x11", "unknown read-only compatible features (0x11)"),
        ("rblocks 1000", "realtime"),
        ("logstart 0", "log is on another device"),
        ("inprogress 1", "mkfs did not end"),
        ("fdblocks 77", "counts 77 free blocks"),
        ("dblocks 100000000", "geometry"),
        ("agblocks 5000", "geometry"),
        ("versionnum 0xb4a6", "version 6"),
    ];
    for (write, reason) in written {
        let (_folder, image) = formatted(64 << 20, &["-d", "agcount=2"]);
        let output = run("xfs_db", &["-x", "-c", "sb 0", "-c", &format!("write -d {write}"), &image]);
        assert!(output.status.success());
        let doubt = poison::mapped(&Xfs, image.as_ref()).unwrap_err();
        assert!(doubt.reason.contains(reason), "{write}: {doubt}");
    }
    let (_folder, image) = formatted(64 << 20, &["-d", "agcount=2"]);
    File::options().write(true).open(&image).unwrap().set_len(63 << 20).unwrap();
    assert!(poison::mapped(&Xfs, image.as_ref()).unwrap_err().reason.contains("larger than its partition"));
}

/// Version 4, which new kernels no longer mount: filled by mkfs, thinned out and mended by xfs_repair. What xfs_db calls free
/// is ours but for the free lists, which it counts too.
#[test]
fn version_4_agrees_with_the_database_tool() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("content").display().to_string();
    std::fs::write(&file, vec![7; 1500]).unwrap();
    let names: String = (0..400).map(|number| format!("file{number} ---644 0 0 {file}\n")).collect();
    let proto = folder.path().join("proto").display().to_string();
    std::fs::write(&proto, format!("/none\n0 0\nd--755 0 0\n{names}$\n")).unwrap();
    for options in [["-b", "size=512"], ["-b", "size=4096"], ["-l", "lazy-count=0"], ["-s", "size=4096"]] {
        let (_folder, image) = formatted(48 << 20, &[&["-m", "crc=0", "-p", &proto], &options[..]].concat());
        let mut words = vec!["-x".to_owned()];
        for number in (0..400).step_by(2) {
            let path = format!("path /file{number}");
            words.extend(["-c".to_owned(), path, "-c".to_owned(), "write -d core.mode 0".to_owned()]);
        }
        words.push(image.clone());
        good("xfs_db", &words.iter().map(String::as_str).collect::<Vec<_>>());
        good("xfs_repair", &["-f", "-o", "force_geometry", &image]);
        let ranges = poison::mapped(&Xfs, image.as_ref()).unwrap();
        let free = database_free(&image);
        for gap in ranges.complement(48 << 20) {
            assert!(free.complement(gap.end).all(|used| used.end <= gap.start), "{gap:?} is used");
        }
        let ours = (48 << 20) - ranges.total();
        assert!(free.count() > 100 && ours <= free.total() && free.total() - ours <= 100 << 12);
        // Without checksums, only the agreement of two records finds damage.
        let mut random = Random(poison::seeds(1).start);
        let areas = looked_at(&Xfs, image.as_ref());
        for kind in [Damage::Bit, Damage::Bytes] {
            damage(&Xfs, image.as_ref(), &mut random, &kind, &areas, 60);
        }
    }
}

fn database_free(image: &str) -> Ranges {
    let number = |name: &str| {
        let line = good("xfs_db", &["-r", "-c", "sb 0", "-c", &format!("print {name}"), image]);
        line.rsplit_once(" = ").unwrap().1.trim().parse::<u64>().unwrap()
    };
    let (block, group) = (number("blocksize"), number("agblocks"));
    let mut free = Ranges::default();
    for line in good("xfs_db", &["-r", "-c", "freesp -d", image]).lines() {
        let numbers: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let &[at, start, count] = &numbers[..] else { continue };
        let start = (at * group + start) * block;
        free.insert(start..start + count * block);
    }
    free
}

#[test]
fn an_almost_empty_tebibyte_costs_little() {
    let (_folder, image) = formatted(1 << 40, &[]);
    let disk = ImageFile::open_source(image.as_ref()).unwrap();
    let window = Window::whole(&disk);
    let start = std::time::Instant::now();
    let used = xfs::map(&window).unwrap().total();
    let (reads, bytes) = window.cost();
    println!("1 TiB: {used} bytes used, {reads} reads, {bytes} bytes, {:?}", start.elapsed());
    assert!(reads < 100 && bytes < 8 << 20 && used < 1 << 30);
}
