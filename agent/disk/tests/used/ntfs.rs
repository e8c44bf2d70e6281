//! NTFS: the map under proof by poison. Filled by ntfs-3g; checked by what ntfsresize looks at before it moves anything: every
//! file's clusters against the bitmap.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gantry_disk::ImageFile;
use gantry_disk::used::{Doubt, Ranges, Window, ntfs};

use crate::poison::memory::{Damage, damage, looked_at};
use crate::poison::{self, Made, Mounted, Random, Subject, Tree, good, verdict};

struct Ntfs;

impl Subject for Ntfs {
    fn kind(&self) -> &'static str {
        "ntfs-3g"
    }

    fn make(&self, random: &mut Random, path: &Path) -> String {
        let size = (20 << 20) + random.below(100 << 20) / 512 * 512;
        File::create(path).unwrap().set_len(size).unwrap();
        let cluster = *random.pick(&[512, 1024, 2048, 4096, 4096, 4096, 8192, 16384, 65536]);
        let sector = *random.pick(&[512, 512, 512, 4096]).min(&cluster);
        let zone = 1 + random.below(4);
        let mut words = format!("-q -F -Q -s {sector} -c {cluster} -z {zone} -p 2048 -H 16 -S 63");
        if random.once_in(3) && cluster <= 4096 {
            words += " -C";
        }
        let path = path.display().to_string();
        good("mkntfs", &words.split(' ').chain([path.as_str()]).collect::<Vec<_>>());
        format!("{size} bytes {words}")
    }

    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        ntfs::map(window)
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        let path = path.display().to_string();
        verdict("ntfsfix", &["-n", &path])?;
        verdict("ntfsresize", &["--info", "--force", "--no-progress-bar", &path])
    }

    fn mount_options(&self) -> &'static str {
        "compression,streams_interface=xattr"
    }

    fn special(&self, _random: &mut Random, mounted: &Path) {
        poison::fragment(mounted);
    }
}

#[test]
fn what_the_map_leaves_out_is_not_missed() {
    poison::prove_many(&Ntfs, 3, 60, |seed, made, ranges| {
        let Some(other) = poison::partclone("ntfs", &made.image) else { return };
        let (ours, theirs) = (ranges.total(), other.total());
        println!("seed {seed}: partclone: {theirs} bytes");
        assert!(ours <= theirs + theirs / 50 + (2 << 20), "seed {seed}: more than partclone");
    });
}

/// The check of the check: one thing left out is missed.
#[test]
fn a_map_that_leaves_out_a_range_is_caught() {
    let made = poison::made(&Ntfs, 7, 40);
    let mut ranges = poison::mapped(&Ntfs, &made.image).unwrap();
    poison::survives(&Ntfs, &made, &ranges);
    let inside = ranges.iter().find(|range| range.start > 1 << 20).unwrap();
    ranges.remove(inside);
    let caught = std::panic::catch_unwind(|| poison::survives(&Ntfs, &made, &ranges));
    assert!(caught.is_err(), "metadata were poisoned and nobody noticed");
}

#[test]
fn damage_never_makes_a_map_smaller() {
    let made = poison::made(&Ntfs, 11, 60);
    let mut random = Random(poison::seeds(1).start);
    let areas = looked_at(&Ntfs, &made.image);
    for (kind, times) in [(Damage::Bit, 300), (Damage::Bytes, 100)] {
        let (maps, doubts) = damage(&Ntfs, &made.image, &mut random, &kind, &areas, times);
        println!("{maps} maps, {doubts} doubts");
        assert!(doubts > 10);
    }
}

fn formatted(size: u64, options: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(size).unwrap();
    let fixed = ["-q", "-F", "-Q", "-s", "512", "-p", "2048", "-H", "16", "-S", "63"];
    good("mkntfs", &[&fixed, options, &[&image.display().to_string()]].concat());
    (folder, image)
}

/// The clusters of files that lie in one run, as ntfsinfo tells them: the first one's number.
fn place_of(image: &Path, record: u64) -> u64 {
    let text = good("ntfsinfo", &["-v", "-i", &record.to_string(), &image.display().to_string()]);
    let runs = text.split("attribute $DATA").nth(1).unwrap().split("Length\n").nth(1).unwrap();
    let place = runs.split_whitespace().nth(1).unwrap();
    u64::from_str_radix(place.trim_start_matches("0x"), 16).unwrap()
}

fn write(image: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

/// A file table so fragmented that several records describe it.
#[test]
fn a_file_table_in_many_pieces_is_followed() {
    let (folder, image) = formatted(12 << 20, &["-c", "512"]);
    let tree = {
        let mounted = Mounted::new(&Ntfs, &image, false);
        let name = |stem, number| mounted.path().join(format!("{stem}{number}"));
        let full = |count: &u64| std::fs::write(name("piece", *count), [7; 2000]).is_err();
        let count = (0..10_000).find(full).unwrap();
        // What is emptied keeps its record, so that new records need clusters.
        for number in (0..count).step_by(2) {
            File::create(name("piece", number)).unwrap();
        }
        (0..10_000).find(|count| File::create(name("more", *count)).is_err()).unwrap();
        Tree::read(mounted.path())
    };
    let text = good("ntfsinfo", &["-i", "0", &image.display().to_string()]);
    assert!(text.contains("$ATTRIBUTE_LIST"), "the file table has one record: {text}");
    let ranges = poison::mapped(&Ntfs, &image).unwrap();
    let made = Made { folder, image, words: "many pieces".to_owned(), tree };
    poison::survives(&Ntfs, &made, &ranges);
}

#[test]
fn what_is_not_certain_is_in_doubt_with_its_reason() {
    let (_folder, image) = formatted(32 << 20, &["-c", "4096"]);
    poison::mapped(&Ntfs, &image).unwrap();
    let original = std::fs::read(&image).unwrap();
    let record = |number: u64| (place_of(&image, 0) * 4096 + number * 1024) as usize;
    let (log, bitmap) = (place_of(&image, 2) * 4096, place_of(&image, 6) * 4096);
    // The volume's flags lie four bytes before the end of its last attribute but the end mark.
    let volume = &original[record(3)..record(4)];
    let at = volume.windows(4).rposition(|four| four == [0x70, 0, 0, 0]).unwrap();
    let flags = (record(3) + at + 24 + 10) as u64;
    let table = (record(0)) as u64;
    let last = (32 << 20) - 512;
    let cases: [(u64, &[u8], &str); 11] = [
        (flags, &[1], "marked as dirty (0x1)"),
        (flags, &[0, 0x40], "marked as dirty (0x4000)"),
        (flags - 2, &[4], "version [4, 1]"),
        (last + 40, &[7], "backup"),
        (last, &[0; 512], "backup"),
        (48, &[77], "backup"),
        (log, b"RCRD", "log cannot be read"),
        (table + 2 * 1024 + 20, &[200], "attribute"),
        (table + 1024 + 510, &[77], "torn"),
        (bitmap, &[0], "bitmap calls free"),
        (table + 8, &[1], "mirror differ"),
    ];
    for (at, bytes, reason) in cases {
        write(&image, at, bytes);
        let doubt = poison::mapped(&Ntfs, &image).unwrap_err();
        assert!(doubt.reason.contains(reason) && !doubt.hibernated, "{at} {bytes:?}: {doubt}");
        std::fs::write(&image, &original).unwrap();
    }
    File::options().write(true).open(&image).unwrap().set_len(31 << 20).unwrap();
    assert!(poison::mapped(&Ntfs, &image).unwrap_err().reason.contains("larger than its partition"));
}

/// A restart page as the log service of Windows writes it: version, number, clients in use, flags.
fn restart_page(major: u8, number: u8, client: u8, flags: u8) -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[..4].copy_from_slice(b"RSTR");
    (page[4], page[6]) = (30, 9);
    (page[17], page[21]) = (0x10, 0x10);
    (page[24], page[28], page[26]) = (64, major, u8::from(major == 1));
    page[64] = number;
    page[76..78].fill(client);
    page[78] = flags;
    // The guard: the same number at the end of each 512 bytes.
    page[30] = 9;
    (1..=8).for_each(|sector| page[sector * 512 - 2] = 9);
    page
}

#[test]
fn the_newer_restart_page_says_whether_the_log_is_clean() {
    let (_folder, image) = formatted(32 << 20, &["-c", "4096"]);
    let log = place_of(&image, 2) * 4096;
    let (none, some) = (0xff, 0);
    let cases = [
        (restart_page(1, 5, none, 0), restart_page(1, 4, some, 0), None),
        (restart_page(1, 5, some, 2), restart_page(1, 4, some, 0), None),
        (restart_page(1, 4, some, 0), restart_page(1, 5, none, 2), None),
        (restart_page(1, 4, none, 2), vec![0; 4096], None),
        (restart_page(1, 5, some, 0), restart_page(1, 4, none, 2), Some("log must be replayed")),
        (restart_page(1, 4, none, 2), restart_page(1, 5, some, 0), Some("log must be replayed")),
        (restart_page(2, 5, none, 2), restart_page(1, 4, none, 2), Some("version 2.0")),
        (restart_page(3, 5, none, 2), restart_page(1, 4, none, 2), Some("version 3.0")),
        ([&restart_page(1, 5, none, 2)[..4094], &[8, 0]].concat(), vec![0; 4096], Some("cannot be read")),
    ];
    for (first, second, reason) in cases {
        write(&image, log, &[first, second].concat());
        match (poison::mapped(&Ntfs, &image), reason) {
            (Ok(_), None) => {}
            (Err(doubt), Some(reason)) => assert!(doubt.reason.contains(reason), "{doubt}"),
            (found, reason) => panic!("{reason:?}, but {:?}", found.map(|_| "a map")),
        }
    }
}

#[test]
fn a_hibernated_windows_is_in_doubt_with_all_its_disks() {
    let sleeping = [&b"hibr"[..], b"HIBR", b"wake", b"RSTR"].map(|sign| [sign, &[0; 8000]].concat());
    let awake = [vec![0; 9000], Vec::new()];
    for (content, sleeps) in
        sleeping.iter().map(|file| (file, true)).chain(awake.iter().map(|file| (file, false)))
    {
        for name in ["hiberfil.sys", "HIBERFIL.SYS", "folder/hiberfil.sys", "hiberfil.sys.old"] {
            let (_folder, image) = formatted(16 << 20, &[]);
            {
                let mounted = Mounted::new(&Ntfs, &image, false);
                std::fs::create_dir(mounted.path().join("folder")).unwrap();
                std::fs::write(mounted.path().join(name), content).unwrap();
            }
            let found = poison::mapped(&Ntfs, &image);
            let sleeps = sleeps && name.len() == 12;
            assert_eq!(found.is_err_and(|doubt| doubt.hibernated), sleeps, "{name} {:?}", content.get(..4));
        }
    }
}

#[test]
fn an_almost_empty_tebibyte_costs_little() {
    let (_folder, image) = formatted(1 << 40, &[]);
    let disk = ImageFile::open_source(&image).unwrap();
    let window = Window::whole(&disk);
    let start = std::time::Instant::now();
    let used = ntfs::map(&window).unwrap().total();
    let (reads, bytes) = window.cost();
    println!("1 TiB: {used} bytes used, {reads} reads, {bytes} bytes, {:?}", start.elapsed());
    // The bitmap alone is 32 MiB.
    assert!(reads < 200 && bytes < 40 << 20 && used < 256 << 20);
}
