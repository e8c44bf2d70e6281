//! Proof by poison: a map is right when nobody misses what lies outside it.
//!
//! A filesystem is made by its own tools, filled by random operations through the kernel's driver, and left cleanly. Then
//! every byte outside our map is overwritten in a copy. The filesystem's own checker must find the copy clean, and every
//! file, link and attribute in it must be what was written. A new filesystem supplies a [`Subject`].

pub mod memory;
mod operations;
mod tree;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gantry_disk::loops::{Loop, Shown};
use gantry_disk::used::{Doubt, Ranges, UsedMaps, Window, used_maps};
use gantry_disk::{Geometry, ImageFile, ReadAt};
pub use operations::{clone_files, fragment, operate};
pub use tree::Tree;

/// A small generator (splitmix64), the same on every machine for the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A kind of filesystem under proof.
pub trait Subject {
    /// As `mount -t` wants it.
    fn kind(&self) -> &'static str;
    /// Makes a filesystem with random options in a new file at `path`. The options in words.
    fn make(&self, random: &mut Random, path: &Path) -> String;
    /// The map under proof.
    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt>;
    /// The filesystem's own checker; what it says about an image that is not clean.
    fn check(&self, path: &Path) -> Result<(), String>;
    /// Options of `mount` (beside read-only or not).
    fn mount_options(&self) -> &'static str {
        ""
    }
    /// What only this kind can do (snapshots, reflinks), done once while it is mounted.
    fn special(&self, _random: &mut Random, _mounted: &Path) {}
    /// What its tools can do with it afterwards, unmounted, without a change to any file (grow, shrink).
    fn afterwards(&self, _random: &mut Random, _image: &Path) {}
}

/// One filesystem that was made and filled.
pub struct Made {
    pub folder: tempfile::TempDir,
    pub image: PathBuf,
    pub words: String,
    pub tree: Tree,
}

/// Makes a filesystem and does `steps` random operations on it.
pub fn made(subject: &dyn Subject, seed: u64, steps: u64) -> Made {
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let words = subject.make(&mut random, &image);
    let tree = {
        let mounted = Mounted::new(subject, &image, false);
        operate(&mut random, mounted.path(), steps);
        subject.special(&mut random, mounted.path());
        Tree::read(mounted.path())
    };
    subject.afterwards(&mut random, &image);
    Made { folder, image, words, tree }
}

/// How a proof ended.
pub enum Proof {
    /// Nobody missed what was poisoned.
    Held(Made, Ranges),
    /// The map is in doubt, and the filesystem's own checker finds fault with the filesystem too: drivers and tools have bugs.
    RightlyDoubted,
}

/// Makes a filesystem, maps it, poisons what the map leaves out and checks what is left.
pub fn prove(subject: &dyn Subject, seed: u64, steps: u64) -> Proof {
    let made = made(subject, seed, steps);
    let ranges = match mapped(subject, &made.image) {
        Ok(ranges) => ranges,
        Err(doubt) => {
            println!("seed {seed}: {}: in doubt: {doubt}", made.words);
            assert!(
                subject.check(&made.image).is_err(),
                "seed {seed}: a clean filesystem is in doubt: {doubt}"
            );
            return Proof::RightlyDoubted;
        }
    };
    let size = std::fs::metadata(&made.image).unwrap().len();
    let (used, count) = (ranges.total(), made.tree.count());
    println!("seed {seed}: {}: {count} entries, {used} of {size} bytes used", made.words);
    survives(subject, &made, &ranges);
    Proof::Held(made, ranges)
}

/// Proves `usual` filesystems (see [`seeds`]); each that held is given to `also`. Too many doubts are a failure.
pub fn prove_many(subject: &dyn Subject, usual: u64, steps: u64, mut also: impl FnMut(u64, &Made, &Ranges)) {
    let seeds = seeds(usual);
    let (mut held, mut doubted) = (0u64, 0u64);
    for seed in seeds.clone() {
        match prove(subject, seed, steps) {
            Proof::Held(made, ranges) => {
                held += 1;
                also(seed, &made, &ranges);
            }
            Proof::RightlyDoubted => doubted += 1,
        }
    }
    println!("seeds {seeds:?}: {held} maps held, {doubted} filesystems rightly in doubt");
    assert!(doubted * 4 <= held + 4, "too many doubts");
}

/// The map of an image.
pub fn mapped(subject: &dyn Subject, image: &Path) -> Result<Ranges, Doubt> {
    let disk = ImageFile::open_source(image).unwrap();
    let ranges = subject.map(&Window::whole(&disk))?;
    let last = ranges.iter().last();
    assert!(last.is_none_or(|range| range.end <= disk.size()), "a map beyond the end");
    Ok(ranges)
}

/// The maps of disks that are image files.
pub fn maps(images: &[PathBuf]) -> UsedMaps {
    let disks: Vec<ImageFile> = images.iter().map(|image| ImageFile::open_source(image).unwrap()).collect();
    let disks: Vec<&dyn ReadAt> = disks.iter().map(|disk| disk as &dyn ReadAt).collect();
    used_maps(&disks)
}

/// Panics unless the image, poisoned outside `ranges`, is clean and carries the same tree.
pub fn survives(subject: &dyn Subject, made: &Made, ranges: &Ranges) {
    let copy = made.folder.path().join("copy");
    poisoned_copy(&made.image, &copy, ranges);
    intact(subject, made, &copy);
    std::fs::remove_file(&copy).unwrap();
}

/// Panics unless `copy` is clean and carries the same tree as what was made.
pub fn intact(subject: &dyn Subject, made: &Made, copy: &Path) {
    subject.check(copy).unwrap_or_else(|words| panic!("{}: the poisoned copy: {words}", made.words));
    let mounted = Mounted::new(subject, copy, true);
    let found = Tree::read(mounted.path());
    assert!(found == made.tree, "{}: {}", made.words, made.tree.difference(&found));
}

/// What is written where nobody may look.
const POISON: u8 = 0xa5;

/// Copies what is in `ranges`, and writes poison everywhere else.
pub fn poisoned_copy(image: &Path, copy: &Path, ranges: &Ranges) {
    let from = File::open(image).unwrap();
    let size = from.metadata().unwrap().len();
    let to = OpenOptions::new().write(true).create(true).truncate(true).open(copy).unwrap();
    to.set_len(size).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for range in ranges.iter() {
        for at in range.clone().step_by(buffer.len()) {
            let piece = (range.end - at).min(buffer.len() as u64) as usize;
            from.read_exact_at(&mut buffer[..piece], at).unwrap();
            to.write_all_at(&buffer[..piece], at).unwrap();
        }
    }
    buffer.fill(POISON);
    for gap in ranges.complement(size) {
        for at in gap.clone().step_by(buffer.len()) {
            let piece = (gap.end - at).min(buffer.len() as u64) as usize;
            to.write_all_at(&buffer[..piece], at).unwrap();
        }
    }
}

/// A mounted image; unmounted and detached when dropped.
pub struct Mounted {
    folder: tempfile::TempDir,
    _device: Loop,
}

impl Mounted {
    /// Needs root.
    pub fn new(subject: &dyn Subject, image: &Path, read_only: bool) -> Self {
        let shown = Shown { read_only, ..Shown::default() };
        let device = Loop::attach(image, shown).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut options = String::from(if read_only { "ro" } else { "rw" });
        if !subject.mount_options().is_empty() {
            options = format!("{options},{}", subject.mount_options());
        }
        let node = device.node().display().to_string();
        let place = folder.path().display().to_string();
        let output = run("mount", &["-t", subject.kind(), "-o", &options, &node, &place]);
        assert!(output.status.success(), "mounting {}: {}", image.display(), words(&output));
        Self { folder, _device: device }
    }

    /// Where.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let place = self.folder.path().display().to_string();
        let output = run("umount", &[&place]);
        if !output.status.success() {
            eprintln!("umount {place}: {}", words(&output));
        }
    }
}

/// Runs a program that the tests need.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).env("LC_ALL", "C").output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: scripts/setup installs what tests need"))
}

/// Runs a program that must succeed; its output.
pub fn good(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(output.status.success(), "{program} {arguments:?}: {}", words(&output));
    words(&output)
}

/// Runs a checker; what it says when it is not content.
pub fn verdict(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = run(program, arguments);
    if output.status.success() { Ok(()) } else { Err(words(&output)) }
}

/// What it printed.
pub fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What partclone calls used: its domain log as ranges. `None` when it refuses (bigalloc).
pub fn partclone(kind: &str, image: &Path) -> Option<Ranges> {
    let text = |path: &Path| path.display().to_string();
    let (domain, log) = (image.with_extension("domain"), image.with_extension("log"));
    let program = format!("partclone.{kind}");
    let arguments = ["-q", "-D", "-s", &text(image), "-O", &text(&domain), "-L", &text(&log)];
    let output = run(&program, &arguments);
    if !output.status.success() {
        println!("{program} refuses: {}", words(&output).lines().next_back().unwrap_or_default());
        return None;
    }
    let mut used = Ranges::default();
    for line in std::fs::read_to_string(&domain).unwrap().lines().filter(|line| line.ends_with('+')) {
        let mut numbers = line.split_whitespace().take(2).map(|word| {
            u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or_else(|_| panic!("{line}"))
        });
        let (start, length) = (numbers.next().unwrap(), numbers.next().unwrap());
        used.insert(start..start + length);
    }
    Some(used)
}

/// The seeds of this run: `usual` many, or GANTRY_POISON; from 1, so that CI is steady, or from GANTRY_SEED.
pub fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("GANTRY_SEED").unwrap_or(1);
    first..first + number("GANTRY_POISON").unwrap_or(usual)
}
