//! ext2, ext3 and ext4: the map under proof.

use std::path::Path;

use gantry_disk::used::{Doubt, Ranges, Window, ext};

use crate::poison::{self, Random, Subject, good, run};

struct Ext;

impl Subject for Ext {
    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn make(&self, random: &mut Random, path: &Path) -> String {
        // Not every mixture is allowed; the next one may be.
        for _ in 0..50 {
            let size = (12 << 20) + random.below(100 << 20) / 512 * 512;
            std::fs::File::create(path).unwrap().set_len(size).unwrap();
            let mut arguments = options(random);
            arguments.push(path.display().to_string());
            if random.once_in(4) {
                // Bytes behind the filesystem.
                arguments.push(format!("{}k", (size >> 10) - random.below(3000)));
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            if run("mke2fs", &arguments).is_some_and(|output| output.status.success()) {
                return arguments.join(" ");
            }
        }
        panic!("mke2fs refuses everything");
    }

    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        ext::map(window)
    }

    fn check(&self, path: &Path) {
        good("e2fsck", &["-fn", &path.display().to_string()]);
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
    let packed = random.below(2);
    let extended =
        format!("lazy_itable_init={lazy},num_backup_sb={backups},packed_meta_blocks={packed},nodiscard");
    list.extend(["-E".to_owned(), extended]);
    list.extend(["-I".to_owned(), (*random.pick(&["128", "256", "512"])).to_owned()]);
    list.extend(["-i".to_owned(), (*random.pick(&["4096", "8192", "16384", "65536"])).to_owned()]);
    if random.once_in(2) {
        list.extend(["-G".to_owned(), (1u64 << random.below(7)).to_string()]);
    }
    list
}

#[test]
fn what_the_map_leaves_out_is_not_missed() {
    for seed in poison::seeds(24) {
        if poison::prove(&Ext, seed, 80).is_none() {
            return;
        }
    }
}
