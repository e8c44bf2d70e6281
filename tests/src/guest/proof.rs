//! Files with known sums, which a guest checks from inside each time it starts.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::run;

/// The seed of all of it.
pub(super) const SEED: u64 = 0x6761_6e74_7279_0002;
/// Sizes in bytes: empty, around a sector, around a page, around the leaf (64 KiB) and the chunk (1 MiB) of replication, and big.
const SIZES: [usize; 14] = [
    0,
    1,
    511,
    4096,
    4097,
    65_535,
    65_536,
    131_073,
    1 << 20,
    (1 << 20) + 1,
    300_001,
    2 << 20,
    5 << 20,
    10 << 20,
];

/// Writes the files, and `SHA256SUMS` over them, below `tree`; returns the number of bytes.
pub(super) fn write(tree: &Path) -> Result<usize> {
    let directory = tree.join("srv/proof");
    std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    println!("proof files: seed {SEED:#x}");
    let mut names = Vec::new();
    for (index, size) in SIZES.into_iter().enumerate() {
        let name = format!("{index:02}-{size}");
        std::fs::write(directory.join(&name), content(SEED + index as u64, size, index % 3 == 2))
            .with_context(|| format!("writing {name}"))?;
        names.push(name);
    }
    let sums = run(Command::new("sha256sum").args(&names).current_dir(&directory))?;
    std::fs::write(directory.join("SHA256SUMS"), sums).context("writing SHA256SUMS")?;
    Ok(SIZES.iter().sum())
}

/// Pseudo-random bytes; `holes`: every second page is zero.
fn content(seed: u64, size: usize, holes: bool) -> Vec<u8> {
    let mut random = crate::random::Random::new(seed);
    let mut bytes = vec![0; size];
    for (index, page) in bytes.chunks_mut(4096).enumerate() {
        if !(holes && index % 2 == 1) {
            random.fill(page);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_files_and_holes_are_zero() {
        assert_eq!(content(7, 9000, false), content(7, 9000, false));
        assert_ne!(content(7, 9000, false), content(8, 9000, false));
        let holed = content(7, 9000, true);
        assert!(
            holed[4096..8192].iter().all(|byte| *byte == 0) && holed[8192..].iter().any(|byte| *byte != 0)
        );
    }

    #[test]
    fn the_sums_match_the_files_and_a_changed_file_does_not() {
        let tree = tempfile::tempdir().unwrap();
        write(tree.path()).unwrap();
        let proof = tree.path().join("srv/proof");
        let check =
            || run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&proof));
        check().unwrap();
        std::fs::write(proof.join("01-1"), "\0\0").unwrap();
        assert!(check().is_err());
    }
}
