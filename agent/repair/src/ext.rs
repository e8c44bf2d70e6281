//! ext2, ext3, ext4: journal replay and checking.
//!
//! The source may have stopped hard, so its journal is replayed before anything is read: by the kernel, as the guest
//! itself would. Then e2fsck looks without repairing: damage is reported and left alone, because repairing is deciding
//! what to lose (I-40).

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{During, Error, Result};
use crate::mounts::Mounts;

/// Byte at which the superblock begins.
const SUPERBLOCK: u64 = 1024;
/// `s_feature_incompat` in the superblock.
const FEATURES: u64 = 0x60;
/// `EXT3_FEATURE_INCOMPAT_RECOVER` in it.
const NEEDS_RECOVERY: u32 = 0x4;
/// The most of e2fsck's words that are repeated.
const WORDS: usize = 2000;

/// Whether the journal holds changes that are not in place yet.
pub fn needs_recovery(device: &Path) -> Result<bool> {
    let mut features = [0; 4];
    std::fs::File::open(device)
        .and_then(|file| file.read_exact_at(&mut features, SUPERBLOCK + FEATURES))
        .during(|| format!("reading the superblock of {}", device.display()))?;
    Ok(u32::from_le_bytes(features) & NEEDS_RECOVERY != 0)
}

/// Replays the journal when there is something in it. Mounted for writing, because only then the kernel also puts the
/// counters right that e2fsck would otherwise call wrong.
pub fn replay(device: &Path, kind: &str, at: &Path) -> Result<()> {
    if needs_recovery(device)? {
        let mut mounts = Mounts::default();
        mounts.add(device, at, kind, false)?;
        mounts.undo()?;
    }
    Ok(())
}

/// Checks without changing anything. `name` is what people are told.
pub fn check(device: &Path, name: &str) -> Result<()> {
    let outcome = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(device)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .during(|| "starting e2fsck (package e2fsprogs)")?;
    match outcome.status.code() {
        Some(0) => Ok(()),
        Some(code) if code & 4 != 0 => {
            let words = String::from_utf8_lossy(&outcome.stdout);
            let shown: String = words.chars().take(WORDS).collect();
            Err(Error::Refused(format!(
                "{name} is damaged; nothing was repaired. Check it on the source (fsck -f), then copy again. e2fsck says:\n{}",
                shown.trim_end()
            )))
        }
        _ => Err(Error::Replica(format!(
            "e2fsck of {name} failed ({}): {}",
            outcome.status,
            String::from_utf8_lossy(&outcome.stderr).trim_end()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filesystem() -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(8 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(image.path()).status().unwrap();
        assert!(made.success());
        image
    }

    #[test]
    fn a_sound_filesystem_passes() {
        let image = filesystem();
        assert!(!needs_recovery(image.path()).unwrap());
        check(image.path(), "it").unwrap();
    }

    #[test]
    fn damage_is_refused_and_left_alone() {
        let image = filesystem();
        let script = "clri <2>\n";
        let tool =
            Command::new("debugfs").args(["-w", "-R", script.trim()]).arg(image.path()).output().unwrap();
        assert!(tool.status.success());
        let before = std::fs::read(image.path()).unwrap();
        let error = check(image.path(), "partition 1 of disk 1").unwrap_err();
        assert!(
            error.needs_a_human() && error.to_string().contains("partition 1 of disk 1 is damaged"),
            "{error}"
        );
        assert!(before == std::fs::read(image.path()).unwrap());
    }
}
