//! Boot media: recognised by the ISO 9660 volume id, on a CD as on a stick to which the image was written raw.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The volume id of every image that `gantry image` builds.
pub const VOLUME_ID: &str = "GANTRY";

/// Start of the primary volume descriptor: sector 16 of 2048 bytes (ECMA-119, 8.4).
const DESCRIPTOR: u64 = 16 * 2048;

/// Whether the device at `path` carries one of our boot images. Errors are those of opening and reading (no medium,
/// no permission).
pub fn carries_boot_medium(path: &Path) -> io::Result<bool> {
    let mut descriptor = [0; 72];
    File::open(path)?.read_exact_at(&mut descriptor, DESCRIPTOR)?;
    Ok(is_ours(&descriptor))
}

/// Type 1 and "CD001", then at byte 40 the volume id, 32 bytes padded with spaces.
fn is_ours(descriptor: &[u8; 72]) -> bool {
    descriptor.starts_with(b"\x01CD001") && descriptor[40..].trim_ascii_end() == VOLUME_ID.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 40960];
        image[32768..32774].copy_from_slice(b"\x01CD001");
        image[32808..32840].fill(b' ');
        image[32808..32808 + id.len()].copy_from_slice(id);
        image
    }

    #[test]
    fn only_our_volume_id_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for (content, expected) in [
            (image(b"GANTRY"), true),
            (image(b"GANTRY2"), false),
            (image(b"Debian 12"), false),
            (vec![0; 40960], false),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(carries_boot_medium(&path).unwrap(), expected);
        }
        std::fs::write(&path, [0; 100]).unwrap();
        assert!(carries_boot_medium(&path).is_err(), "too short to tell");
    }
}
