//! ext2, ext3 and ext4: the map under proof.

use std::path::Path;

use gantry_disk::ImageFile;
use gantry_disk::used::{Doubt, Ranges, Window, ext};

use crate::poison::memory::{Damage, damage};
use crate::poison::{self, Random, Subject, Tree, good, run};

struct Ext;

impl Subject for Ext {
    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn make(&self, random: &mut Random, path: &Path) -> String {
        // Not every mixture is allowed; the next one may be.
        for _ in 0..50 {
            let size = (12 << 20) + random.below(100 << 20) / 512 * 512;
            blank(path, size);
            let mut arguments = options(random);
            arguments.push(path.display().to_string());
            if random.once_in(4) {
                // Bytes behind the filesystem.
                arguments.push(format!("{}k", (size >> 10) - random.below(3000)));
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            if run("mke2fs", &arguments).status.success() {
                return arguments.join(" ");
            }
        }
        panic!("mke2fs refuses everything");
    }

    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        ext::map(window)
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        let path = path.display().to_string();
        poison::verdict("e2fsck", &["-fn", &path])?;
        // The kernel's complaints are kept in the superblock; e2fsck -n finds nothing wrong with them.
        let text = good("dumpe2fs", &["-h", &path]);
        if text.contains("with errors") || text.contains("FS Error count") { Err(text) } else { Ok(()) }
    }

    /// Smaller, or as large as the file.
    fn afterwards(&self, random: &mut Random, image: &Path) {
        let path = image.display().to_string();
        let size = std::fs::metadata(image).unwrap().len() >> 10;
        match random.below(8) {
            0 => drop(run("resize2fs", &["-f", "-M", &path])),
            1 => drop(run("resize2fs", &["-f", &path, &format!("{}k", size - random.below(size / 2))])),
            2 => drop(run("resize2fs", &["-f", &path])),
            _ => {}
        }
    }
}

/// An ext4 of a given size.
pub struct Sized(pub u64);

impl Subject for Sized {
    fn kind(&self) -> &'static str {
        "ext4"
    }
    fn make(&self, _: &mut Random, path: &Path) -> String {
        blank(path, self.0);
        good("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-g", "2048", &path.display().to_string()]);
        format!("ext4 of {} bytes", self.0)
    }
    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        ext::map(window)
    }
    fn check(&self, path: &Path) -> Result<(), String> {
        poison::verdict("e2fsck", &["-fn", &path.display().to_string()])
    }
}

/// Options of mke2fs that change where things are.
fn options(random: &mut Random) -> Vec<String> {
    let mut list: Vec<String> = ["-q", "-F", "-t"].map(str::to_owned).into();
    let kind = *random.pick(&["ext2", "ext3", "ext4", "ext4", "ext4", "ext4"]);
    list.push(kind.to_owned());
    let block = *random.pick(&[1024, 1024, 2048, 4096]);
    list.extend(["-b".to_owned(), block.to_string()]);
    let mut features: Vec<&str> = Vec::new();
    let maybe = |random: &mut Random, times, feature: &'static str, features: &mut Vec<&str>| {
        let yes = random.once_in(times);
        if yes {
            features.push(feature);
        }
        yes
    };
    let mut bigalloc = false;
    if kind == "ext4" {
        match random.below(4) {
            0 => features.push("^metadata_csum,uninit_bg"),
            1 => features.push("^metadata_csum,^uninit_bg"),
            _ => {
                maybe(random, 4, "metadata_csum_seed", &mut features);
            }
        }
        features.push(*random.pick(&["64bit", "64bit", "^64bit"]));
        maybe(random, 3, "^flex_bg", &mut features);
        maybe(random, 4, "inline_data", &mut features);
        maybe(random, 4, "^has_journal", &mut features);
        maybe(random, 6, "ea_inode", &mut features);
        maybe(random, 6, "large_dir", &mut features);
        maybe(random, 4, "fast_commit", &mut features);
        maybe(random, 3, "orphan_file", &mut features);
        bigalloc = maybe(random, 4, "bigalloc", &mut features);
        if bigalloc {
            list.extend(["-C".to_owned(), (block << (1 + random.below(5))).to_string()]);
        } else {
            maybe(random, 6, "^extent", &mut features);
        }
    }
    match random.below(6) {
        0 => features.push("meta_bg,^resize_inode"),
        1 => features.push("^sparse_super,^resize_inode"),
        2 => features.push("sparse_super2,^resize_inode"),
        3 => features.push("^resize_inode"),
        _ => {}
    }
    if !features.is_empty() {
        list.extend(["-O".to_owned(), features.join(",")]);
    }
    if !bigalloc && random.once_in(2) {
        list.extend(["-g".to_owned(), (8 * (32 + random.below(block - 32))).to_string()]);
    }
    let lazy = random.below(2);
    let backups = random.below(3);
    // Packing with bigalloc gives the same clusters to two (e2fsprogs 1.47.0).
    let packed = if bigalloc { 0 } else { random.below(2) };
    let extended =
        format!("lazy_itable_init={lazy},num_backup_sb={backups},packed_meta_blocks={packed},nodiscard");
    list.extend(["-E".to_owned(), extended]);
    list.extend(["-I".to_owned(), (*random.pick(&["128", "256", "512"])).to_owned()]);
    list.extend(["-i".to_owned(), (*random.pick(&["4096", "8192", "16384", "65536"])).to_owned()]);
    if random.once_in(2) {
        list.extend(["-G".to_owned(), (2u64 << random.below(6)).to_string()]);
    }
    list
}

#[test]
fn what_the_map_leaves_out_is_not_missed() {
    poison::prove_many(&Ext, 12, 80, |seed, made, ranges| {
        let told = Told::read(&made.image);
        assert_eq!(ranges.total(), told.used, "seed {seed}: dumpe2fs counts other blocks");
        if seed % 6 == 0
            && let Some(other) = poison::partclone("extfs", &made.image)
        {
            println!("seed {seed}: partclone: {} bytes, and {} behind", other.total(), told.behind);
            assert!(ranges.total() <= other.total() + told.behind + 4096, "seed {seed}: more than partclone");
        }
    });
}

/// The check of the check: one file block left out is missed.
#[test]
fn a_map_that_leaves_out_one_block_is_caught() {
    let made = poison::made(&Ext, 7, 40);
    let mut ranges = poison::mapped(&Ext, &made.image).unwrap();
    poison::survives(&Ext, &made, &ranges);
    let path = made.image.display().to_string();
    let text = good("debugfs", &["-R", "stat <2>", &path]);
    let block = text.rsplit("(0):").next().unwrap().split_whitespace().next().unwrap();
    let block = block.trim_end_matches(',').parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    let size = block_size(&made.image);
    ranges.remove(block * size..(block + 1) * size);
    let caught = std::panic::catch_unwind(|| poison::survives(&Ext, &made, &ranges));
    assert!(caught.is_err(), "the root folder was poisoned and nobody noticed");
}

#[test]
fn a_filesystem_that_is_in_use_is_in_doubt() {
    for kind in ["ext2", "ext3", "ext4"] {
        let folder = tempfile::tempdir().unwrap();
        let (image, copy) = (folder.path().join("image"), folder.path().join("copy"));
        blank(&image, 32 << 20);
        good("mke2fs", &["-q", "-F", "-t", kind, &image.display().to_string()]);
        let mounted = poison::Mounted::new(&Ext, &image, false);
        poison::operate(&mut Random(3), mounted.path(), 20);
        good("sync", &["-f", &mounted.path().display().to_string()]);
        std::fs::copy(&image, &copy).unwrap();
        drop(mounted);
        let doubt = poison::mapped(&Ext, &copy).unwrap_err();
        assert!(doubt.reason.starts_with("it is not clean"), "{kind}: {doubt}");
        poison::mapped(&Ext, &image).unwrap();
    }
}

/// Each row: what mke2fs is told beside the usual, what debugfs does to the result, and words of the doubt.
const DOUBTS: &[(&[&str], &[&str], &str)] = &[
    (&["-O", "journal_dev"], &[], "journal of another"),
    (&["-J", "size=4"], &["ssv state 0"], "not unmounted"),
    (&["-J", "size=4"], &["ssv state 3"], "recorded errors"),
    (&["-J", "size=4"], &["ssv error_count 1"], "recorded errors"),
    (&["-J", "size=4"], &["ssv last_orphan 12"], "deleted files"),
    (&["-J", "size=4"], &["feature needs_recovery"], "journal must be replayed"),
    (&["-J", "size=4"], &["feature orphan_present"], "deleted files"),
    (&["-J", "size=4"], &["feature FEATURE_I20"], "incompatible features that are not known here (0x100000)"),
    (&["-J", "size=4"], &["feature FEATURE_R20"], "read-only compatible features"),
    (&["-J", "size=4"], &["feature FEATURE_R7"], "read-only compatible features"),
    (&["-J", "size=4"], &["feature snapshot_bitmap"], " compatible features"),
    (&["-J", "size=4"], &["ssv journal_inum 0", "ssv journal_dev 0x700"], "another device"),
    (&["-J", "size=4"], &["ssv free_blocks_count 5"], "its superblock counts 5"),
    (&["-J", "size=4"], &["ssv blocks_count 99999999"], "larger"),
    (&["-J", "size=4"], &["set_bg 0 free_blocks_count 5", "set_bg 0 checksum calc"], "counts 5 free"),
    (
        &["-J", "size=4"],
        &["set_bg 0 free_blocks_count 5", "set_bg 0 checksum 9"],
        "descriptor of group 0 has a wrong",
    ),
    (
        &["-J", "size=4"],
        &["set_bg 0 block_bitmap_csum 5", "set_bg 0 checksum calc"],
        "bitmap of group 0 has a wrong",
    ),
    (
        &["-J", "size=4"],
        &["set_bg 3 free_blocks_count 5", "set_bg 3 checksum calc"],
        "group 3 was never written",
    ),
    (&["-J", "size=4"], &["set_bg 0 inode_table 99999999", "set_bg 0 checksum calc"], "lie outside"),
];

#[test]
fn what_is_not_certain_is_in_doubt_with_its_reason() {
    for (options, commands, words) in DOUBTS {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        blank(&image, 64 << 20);
        let path = image.display().to_string();
        good("mke2fs", &[&["-q", "-F", "-t", "ext4", "-b", "1024"], *options, &[&path]].concat());
        // In one session: debugfs does not open again what it has damaged.
        let script = folder.path().join("script");
        std::fs::write(&script, commands.join("\n")).unwrap();
        good("debugfs", &["-w", "-f", &script.display().to_string(), &path]);
        match poison::mapped(&Ext, &image) {
            Ok(_) => panic!("{options:?} {commands:?} is believed"),
            Err(doubt) => {
                let right = doubt.reason.contains(words) && !doubt.hibernated;
                assert!(right, "{options:?} {commands:?}: {doubt}");
            }
        }
    }
}

#[test]
fn a_filesystem_that_another_machine_has_mounted_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    blank(&image, 64 << 20);
    let path = image.display().to_string();
    good("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "mmp", &path]);
    let told = Told::read(&image);
    assert_eq!(poison::mapped(&Ext, &image).unwrap().total(), told.used);
    let text = good("dumpe2fs", &["-h", &path]);
    let block = text.split("MMP block number:").nth(1).unwrap().split_whitespace().next().unwrap();
    let sequence = block.parse::<u64>().unwrap() * 4096 + 4;
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &17u32.to_le_bytes(), sequence).unwrap();
    assert!(poison::mapped(&Ext, &image).unwrap_err().reason.contains("a machine is using it"));
}

/// What this kernel does not mount is filled by mke2fs and read back by debugfs.
#[test]
fn filesystems_that_this_kernel_does_not_mount_are_mapped_too() {
    let table: &[&[&str]] = &[
        &["-b", "65536"],
        &["-b", "8192", "-O", "bigalloc", "-C", "32768"],
        &["-b", "65536", "-O", "meta_bg,^resize_inode,64bit"],
        &["-b", "1024", "-O", "quota,project,verity,encrypt,casefold"],
        &["-r", "0", "-b", "1024"],
    ];
    for options in table {
        let folder = tempfile::tempdir().unwrap();
        let (image, tree) = (folder.path().join("image"), folder.path().join("tree"));
        std::fs::create_dir(&tree).unwrap();
        poison::operate(&mut Random(5), &tree, 20);
        blank(&image, 96 << 20);
        let kind = if options.contains(&"0") { "ext2" } else { "ext4" };
        let (path, from) = (image.display().to_string(), tree.display().to_string());
        good("mke2fs", &[&["-q", "-F", "-t", kind, "-d", &from], *options, &[&path]].concat());
        // mke2fs does not count what it copies towards quotas.
        run("e2fsck", &["-fy", &path]);
        let ranges = poison::mapped(&Ext, &image).unwrap_or_else(|doubt| panic!("{options:?}: {doubt}"));
        assert_eq!(ranges.total(), Told::read(&image).used, "{options:?}");
        let (copy, back) = (folder.path().join("copy"), folder.path().join("back"));
        poison::poisoned_copy(&image, &copy, &ranges);
        Ext.check(&copy).unwrap_or_else(|words| panic!("{options:?}: {words}"));
        std::fs::create_dir(&back).unwrap();
        good("debugfs", &["-R", &format!("rdump / {}", back.display()), &copy.display().to_string()]);
        std::fs::remove_dir(back.join("lost+found")).unwrap();
        // debugfs makes a file of each hard link and sets no attributes.
        let (before, after) = (Tree::contents(&tree), Tree::contents(&back));
        assert!(before == after, "{options:?}: {}", before.difference(&after));
    }
}

#[test]
fn damage_never_makes_a_map_smaller() {
    let made = poison::made(&Ext, 11, 40);
    let mut random = Random(poison::seeds(1).start);
    for features in
        ["metadata_csum,64bit", "^metadata_csum,uninit_bg,^64bit", "^metadata_csum,^uninit_bg,^64bit"]
    {
        let image = made.folder.path().join("small");
        blank(&image, 24 << 20);
        let path = image.display().to_string();
        good("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-g", "2048", "-O", features, &path]);
        let mounted = poison::Mounted::new(&Ext, &image, false);
        poison::operate(&mut random, mounted.path(), 40);
        drop(mounted);
        let mut areas = Ranges::default();
        areas.insert(1024..2048);
        areas.insert(2048..2048 + 64 * 12);
        for block in good("dumpe2fs", &[&path]).split("Block bitmap at ").skip(1) {
            let block: u64 = block.split([' ', ',']).next().unwrap().parse().unwrap();
            areas.insert(block * 1024..(block + 1) * 1024);
        }
        let (maps, doubts) = damage(&Ext, &image, &mut random, &Damage::Bit, &areas, 2000);
        println!("{features}: one bit: {maps} maps, {doubts} doubts");
        assert!(doubts > 100 && maps > 100);
        if features.starts_with("meta") {
            let (maps, doubts) = damage(&Ext, &image, &mut random, &Damage::Bytes, &areas, 1000);
            println!("{features}: some bytes: {maps} maps, {doubts} doubts");
        }
    }
}

#[test]
fn an_almost_empty_tebibyte_costs_little() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    blank(&image, 1 << 40);
    good("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard", &image.display().to_string()]);
    let disk = ImageFile::open_source(&image).unwrap();
    let window = Window::whole(&disk);
    let start = std::time::Instant::now();
    let ranges = ext::map(&window).unwrap();
    let (reads, bytes) = window.cost();
    println!("{:?}, {reads} reads, {bytes} bytes, {} ranges", start.elapsed(), ranges.count());
    assert_eq!(ranges.total(), Told::read(&image).used);
    assert!(reads < 600 && bytes < 4 << 20);
}

fn blank(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

fn block_size(image: &Path) -> u64 {
    let text = good("dumpe2fs", &["-h", &image.display().to_string()]);
    text.split("Block size:").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// What dumpe2fs says, in bytes.
struct Told {
    /// Everything but its free blocks.
    used: u64,
    /// Behind its last block.
    behind: u64,
}

impl Told {
    fn read(image: &Path) -> Self {
        let text = good("dumpe2fs", &["-h", &image.display().to_string()]);
        let value = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
            line.trim().parse::<u64>().unwrap()
        };
        let size = std::fs::metadata(image).unwrap().len();
        let block = value("Block size:");
        Self { used: size - value("Free blocks:") * block, behind: size - value("Block count:") * block }
    }
}
