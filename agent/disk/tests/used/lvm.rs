//! Volume groups on one to three disks, made by LVM's own tools. No device-mapper is needed: what a volume holds is put where
//! `lvs` says it lies, by code of its own.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_disk::loops::{Loop, Shown};
use gantry_disk::used::UsedMaps;

use crate::ext::Sized;
use crate::poison::{self, Made, Random, Subject, good, maps, words};

const MIB: u64 = 1 << 20;

/// Disks with a physical volume each, attached.
struct Lab {
    folder: tempfile::TempDir,
    images: Vec<PathBuf>,
    loops: Vec<Loop>,
    /// Where on each image the physical volume starts.
    start: u64,
}

impl Lab {
    fn new(disks: usize, size: u64, partitioned: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<_> = (0..disks).map(|number| folder.path().join(format!("disk{number}"))).collect();
        for image in &images {
            File::create(image).unwrap().set_len(size).unwrap();
            if partitioned {
                let script = image.with_extension("script");
                std::fs::write(
                    &script,
                    "label: gpt\nstart=2048, type=E6D6D379-F507-44C2-A23C-238F2A3DF928\n",
                )
                .unwrap();
                let command = format!("sfdisk -q {} < {}", image.display(), script.display());
                good("sh", &["-c", &command]);
            }
        }
        let mut lab = Self { folder, images, loops: Vec::new(), start: if partitioned { MIB } else { 0 } };
        let images = lab.images.clone();
        lab.attach(&images);
        lab
    }

    /// Shows other images to LVM instead.
    fn attach(&mut self, images: &[PathBuf]) {
        self.loops.clear();
        for image in images {
            let size = std::fs::metadata(image).unwrap().len();
            // The GPT of sfdisk leaves 33 sectors at the end.
            let length = if self.start > 0 { (size - self.start - 33 * 512) / MIB * MIB } else { 0 };
            let shown = Shown { offset: self.start, length, ..Shown::default() };
            self.loops.push(Loop::attach(image, shown).unwrap());
        }
    }

    fn node(&self, disk: usize) -> String {
        self.loops[disk].node().display().to_string()
    }

    fn nodes(&self) -> Vec<String> {
        (0..self.loops.len()).map(|disk| self.node(disk)).collect()
    }

    /// Runs an LVM command; what it printed.
    fn lvm(&self, line: &str) -> Result<String, String> {
        let accept: Vec<String> = self.nodes().iter().map(|node| format!("\"a|^{node}$|\"")).collect();
        let config = format!(
            "devices{{use_devicesfile=0 scan=[\"/dev\"] filter=[{},\"r|.*|\"]}} activation{{udev_sync=0 udev_rules=0}} \
             backup{{backup=0 archive=0}}",
            accept.join(",")
        );
        let output = Command::new("/usr/sbin/lvm")
            .args(line.split_whitespace())
            .args(["--driverloaded", "n", "--config", &config])
            .envs([("LVM_SUPPRESS_FD_WARNINGS", "1"), ("LC_ALL", "C")])
            .output()
            .unwrap();
        let said = words(&output);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(said)
        }
    }

    fn must(&self, line: &str) -> String {
        self.lvm(line).unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// Names of the volumes.
    fn names(&self) -> Vec<String> {
        self.must("lvs --noheadings -o lv_name vg0").split_whitespace().map(str::to_owned).collect()
    }

    /// Where the bytes of a volume lie: runs of (disk, byte on its image, length), in order.
    fn runs(&self, volume: &str) -> Vec<(usize, u64, u64)> {
        let columns = "seg_start_pe,seg_size,stripes,stripe_size,devices";
        let line = format!(
            "lvs --noheadings --segments --units b --nosuffix -O seg_start_pe -o {columns} vg0/{volume}"
        );
        let starts = self.must("pvs --noheadings --units b --nosuffix -o pv_name,pe_start,vg_extent_size");
        let starts: Vec<Vec<&str>> = starts.lines().map(|line| line.split_whitespace().collect()).collect();
        let mut runs = Vec::new();
        for line in self.must(&line).lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| fields[index].parse::<u64>().unwrap();
            let legs: Vec<(usize, u64)> = fields[4]
                .split(',')
                .map(|leg| {
                    let (node, extent) = leg.trim_end_matches(')').split_once('(').unwrap();
                    let row = starts.iter().find(|row| row[0] == node).unwrap();
                    let (start, size): (u64, u64) = (row[1].parse().unwrap(), row[2].parse().unwrap());
                    let disk = self.nodes().iter().position(|known| known == node).unwrap();
                    (disk, self.start + start + extent.parse::<u64>().unwrap() * size)
                })
                .collect();
            let (length, stripe) = (number(1), if number(2) == 1 { number(1) } else { number(3) });
            let mut at = 0;
            while at < length {
                let (disk, start) = legs[(at / stripe) as usize % legs.len()];
                runs.push((disk, start + at / stripe / legs.len() as u64 * stripe, stripe.min(length - at)));
                at += stripe;
            }
        }
        runs
    }

    fn size(&self, volume: &str) -> u64 {
        self.runs(volume).iter().map(|(_, _, length)| length).sum()
    }

    /// Fills a volume with the bytes of a file.
    fn put(&self, volume: &str, from: &Path) {
        let from = File::open(from).unwrap();
        let disks: Vec<File> =
            self.images.iter().map(|image| OpenOptions::new().write(true).open(image).unwrap()).collect();
        let mut at = 0;
        for (disk, place, length) in self.runs(volume) {
            let mut bytes = vec![0; length as usize];
            from.read_exact_at(&mut bytes, at).unwrap();
            disks[disk].write_all_at(&bytes, place).unwrap();
            at += length;
        }
    }

    /// What a volume holds on other images of the same disks, as a file.
    fn get(&self, volume: &str, images: &[PathBuf], to: &Path) {
        let to = File::create(to).unwrap();
        let mut at = 0;
        for (disk, place, length) in self.runs(volume) {
            let mut bytes = vec![0; length as usize];
            File::open(&images[disk]).unwrap().read_exact_at(&mut bytes, place).unwrap();
            to.write_all_at(&bytes, at).unwrap();
            at += length;
        }
    }

    fn maps(&self) -> UsedMaps {
        maps(&self.images)
    }

    /// Poisoned copies of all disks.
    fn poisoned(&self, maps: &UsedMaps) -> Vec<PathBuf> {
        let copies: Vec<_> = self.images.iter().map(|image| image.with_extension("copy")).collect();
        for ((image, copy), map) in self.images.iter().zip(&copies).zip(&maps.disks) {
            poison::poisoned_copy(image, copy, &map.used);
        }
        copies
    }
}

/// What a volume was filled with.
enum Content {
    Filesystem(Made),
    Swap,
    Junk(PathBuf),
}

fn fill(lab: &Lab, volume: &str, random: &mut Random) -> Content {
    let size = lab.size(volume);
    let file = lab.folder.path().join(volume);
    if size >= 8 * MIB && !random.once_in(3) {
        let made = poison::made(&Sized(size), random.next(), 25);
        lab.put(volume, &made.image);
        return Content::Filesystem(made);
    }
    File::create(&file).unwrap().set_len(size).unwrap();
    if random.once_in(2) {
        good("mkswap", &[&file.display().to_string()]);
        lab.put(volume, &file);
        return Content::Swap;
    }
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new().update(&random.next().to_le_bytes()).finalize_xof().fill(&mut bytes);
    std::fs::write(&file, bytes).unwrap();
    lab.put(volume, &file);
    Content::Junk(file)
}

fn prove(seed: u64) {
    let mut random = Random(seed);
    let disks = 1 + random.below(3) as usize;
    let mut lab = Lab::new(disks, 64 * MIB + random.below(32) * MIB, random.once_in(2));
    for disk in 0..disks {
        // The first always carries the metadata.
        let copies = if disk == 0 { 1 + random.below(2) } else { random.below(3) };
        let options = *random.pick(&["", "--dataalignment 256k", "--metadatasize 300k"]);
        lab.must(&format!("pvcreate -y --pvmetadatacopies {copies} {options} {}", lab.node(disk)));
    }
    let extent = *random.pick(&["1m", "2m", "4m"]);
    lab.must(&format!("vgcreate -s {extent} vg0 {}", lab.nodes().join(" ")));
    for number in 0..2 + random.below(6) {
        let size = *random.pick(&[4, 8, 12, 20, 40]);
        let stripes = 1 + random.below(disks as u64);
        let stripe =
            if stripes > 1 { format!("-i {stripes} -I {}k", 4 << random.below(6)) } else { String::new() };
        // A full group is part of the game.
        let _ = lab.lvm(&format!("lvcreate -an -Zn -Wn -L {size}m {stripe} -n v{number} vg0"));
        match random.below(5) {
            0 => drop(lab.lvm(&format!("lvremove -f vg0/v{}", random.below(number + 1)))),
            1 => drop(lab.lvm(&format!("lvextend -i 1 -L +5m vg0/v{}", random.below(number + 1)))),
            _ => {}
        }
    }
    let contents: Vec<_> =
        lab.names().into_iter().map(|name| (fill(&lab, &name, &mut random), name)).collect();
    let maps = lab.maps();
    let report = lab.must("lvs --noheadings -o lv_name,devices vg0");
    println!("seed {seed}: {} disks, {:?}", disks, maps.volumes);
    for map in &maps.disks {
        assert_eq!(
            (&map.doubt, map.parts.len(), map.parts[0].doubt.as_ref()),
            (&None, 1, None),
            "seed {seed}: {maps:?}"
        );
    }
    let free: u64 = lab.must("vgs --noheadings --units b --nosuffix -o vg_free vg0").trim().parse().unwrap();
    let (size, used): (u64, u64) = (
        lab.images.iter().map(|image| std::fs::metadata(image).unwrap().len()).sum(),
        maps.disks.iter().map(|map| map.used.total()).sum(),
    );
    // Edges of the disks may be extents.
    assert!(used <= size - free + 2 * MIB * disks as u64, "seed {seed}: {used} of {size} used, {free} free");

    let copies = lab.poisoned(&maps);
    for (content, name) in &contents {
        let file = lab.folder.path().join("content");
        lab.get(name, &copies, &file);
        let part = maps.volumes.iter().find(|part| part.name == format!("vg0/{name}")).unwrap();
        match content {
            Content::Filesystem(made) => {
                poison::intact(&Sized(0), made, &file);
                assert!(part.doubt.is_none() && part.used < part.size, "seed {seed}: {part:?}");
            }
            Content::Swap => {
                good("swaplabel", &[&file.display().to_string()]);
                assert!(part.doubt.is_none() && part.used == 2 << 16, "seed {seed}: {part:?}");
            }
            Content::Junk(before) => {
                assert!(
                    std::fs::read(before).unwrap() == std::fs::read(&file).unwrap(),
                    "seed {seed}: {name}"
                );
                assert!(part.doubt.is_some() && part.used == part.size, "seed {seed}: {part:?}");
            }
        }
    }
    lab.attach(&copies);
    lab.must("vgck vg0");
    let node = |text: String| {
        text.split("/dev/")
            .map(|part| part.trim_start_matches(|c: char| c.is_alphanumeric()).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(node(lab.must("lvs --noheadings -o lv_name,devices vg0")).len(), node(report).len());
}

#[test]
fn what_no_volume_and_no_filesystem_on_one_uses_is_not_missed() {
    poison::seeds(4).for_each(prove);
}

/// A group over two disks: a linear ext4 on the first, a striped one over both, a linear swap on the second.
fn pair() -> Lab {
    let lab = Lab::new(2, 96 * MIB, false);
    lab.must(&format!("pvcreate -y {}", lab.nodes().join(" ")));
    lab.must(&format!("vgcreate vg0 {}", lab.nodes().join(" ")));
    lab.must(&format!("lvcreate -an -Zn -Wn -L 24m -n first vg0 {}", lab.node(0)));
    lab.must("lvcreate -an -Zn -Wn -L 24m -i 2 -n both vg0");
    lab.must(&format!("lvcreate -an -Zn -Wn -L 24m -n second vg0 {}", lab.node(1)));
    for name in ["first", "both"] {
        let file = lab.folder.path().join(name);
        Sized(24 * MIB).make(&mut Random(1), &file);
        lab.put(name, &file);
    }
    let file = lab.folder.path().join("second");
    File::create(&file).unwrap().set_len(24 * MIB).unwrap();
    good("mkswap", &[&file.display().to_string()]);
    lab.put("second", &file);
    lab
}

/// Names of the volumes that are in doubt.
fn doubted(maps: &UsedMaps) -> Vec<&str> {
    maps.volumes.iter().filter(|part| part.doubt.is_some()).map(|part| part.name.as_str()).collect()
}

#[test]
fn volumes_that_reach_beyond_the_disks_given_are_used_as_a_whole() {
    let lab = pair();
    let together = lab.maps();
    assert_eq!(doubted(&together), [""; 0]);
    for (disk, here) in [(0, "vg0/first"), (1, "vg0/second")] {
        let alone = maps(&lab.images[disk..=disk]);
        let mut doubts = doubted(&alone);
        doubts.sort_unstable();
        let mut wanted = vec!["vg0/both", if disk == 0 { "vg0/second" } else { "vg0/first" }];
        wanted.sort_unstable();
        assert_eq!(doubts, wanted);
        assert!(alone.volumes.iter().any(|part| part.name == here && part.doubt.is_none()));
        // What is used together is used alone, and half of the striped volume besides.
        let (one, two) = (&alone.disks[0].used, &together.disks[disk].used);
        assert!(one.complement(96 * MIB).all(|gap| !two.touches(gap)));
        assert!(one.total() > two.total() + 8 * MIB && one.total() < 48 * MIB);
    }
}

#[test]
fn a_stale_an_exported_or_a_sleeping_group_is_copied_whole() {
    let lab = pair();
    let (old, new) = (lab.folder.path().join("old"), &lab.images);
    std::fs::copy(&new[1], &old).unwrap();
    lab.must("lvremove -f vg0/both");
    let whole = |maps: &UsedMaps, words: &str| {
        for map in &maps.disks {
            assert_eq!(map.used.total(), 96 * MIB, "{maps:?}");
            let doubt = map.doubt.as_ref().or(map.parts[0].doubt.as_ref()).unwrap();
            assert!(doubt.contains(words), "{doubt}");
        }
    };
    whole(&maps(&[new[0].clone(), old]), "different states");
    whole(&maps(&[new[0].clone(), new[0].clone()]), "same UUID");
    // The superblock of an ext4 beside the label: nobody can tell which of the two is stale.
    let disk = OpenOptions::new().read(true).write(true).open(&lab.images[0]).unwrap();
    let (mut before, superblock) = ([0; 1024], std::fs::read(lab.folder.path().join("first")).unwrap());
    disk.read_exact_at(&mut before, 1024).unwrap();
    disk.write_all_at(&superblock[1024..2048], 1024).unwrap();
    whole(&maps(&lab.images[..1]), "several things");
    disk.write_all_at(&before, 1024).unwrap();
    lab.must("vgexport vg0");
    whole(&lab.maps(), "exported");
    lab.must("vgimport vg0");
    assert!(lab.maps().disks.iter().all(|map| map.used.total() < 48 * MIB));
    // The swap on the second disk holds a hibernated system: the first disk is not believed either.
    let file = lab.folder.path().join("second");
    let swap = OpenOptions::new().write(true).open(&file).unwrap();
    swap.write_all_at(b"S1SUSPEND\0", 4086).unwrap();
    lab.put("second", &file);
    let maps = lab.maps();
    whole(&maps, "hibernated");
    assert!(maps.disks[0].doubt.as_ref().unwrap().starts_with("vg0/second: a hibernated system"), "{maps:?}");
}

#[test]
fn damage_to_label_or_metadata_never_makes_the_map_smaller() {
    let lab = pair();
    let sound = lab.maps();
    let image = &lab.images[0];
    let disk = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut random = Random(poison::seeds(1).start);
    let (mut maps, mut doubts) = (0, 0);
    for _ in 0..60 {
        let (area, length) = *random.pick(&[(512, 512), (4096, 512), (4608, 8192)]);
        let at = area + random.below(length);
        let mut byte = [0];
        disk.read_exact_at(&mut byte, at).unwrap();
        disk.write_all_at(&[byte[0] ^ 1 << random.below(8)], at).unwrap();
        let found = lab.maps();
        for (found, sound) in found.disks.iter().zip(&sound.disks) {
            let lost = found.used.complement(96 * MIB).find(|gap| sound.used.touches(gap.clone()));
            assert!(lost.is_none(), "byte {at}: the map lost something in {lost:?}");
        }
        if found.disks[0].used.total() == 96 * MIB {
            doubts += 1;
        } else {
            maps += 1;
        }
        disk.write_all_at(&byte, at).unwrap();
    }
    println!("{maps} maps, {doubts} doubts");
    assert!(doubts > 10 && maps > 10);
}
