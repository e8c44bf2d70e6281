//! ext2, ext3 and ext4: the map under proof by poison.

use std::path::Path;

use gantry_disk::used::{Doubt, Ranges, Window};

use crate::poison::{self, Random, Subject, good};

struct Ext;

impl Subject for Ext {
    fn kind(&self) -> &'static str {
        "ext4"
    }

    fn make(&self, random: &mut Random, path: &Path) -> String {
        let size = 16 + random.below(112);
        std::fs::File::create(path).unwrap().set_len(size << 20).unwrap();
        good("mke2fs", &["-q", "-F", "-t", "ext4", &path.display().to_string()]);
        format!("{size} MiB")
    }

    fn map(&self, window: &Window<'_>) -> Result<Ranges, Doubt> {
        Ok(Ranges::whole(window.size()))
    }

    fn check(&self, path: &Path) {
        good("e2fsck", &["-fn", &path.display().to_string()]);
    }
}

#[test]
fn first() {
    poison::prove(&Ext, poison::seed(), 300).unwrap();
}
