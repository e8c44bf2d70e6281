//! CRC-32C (Castagnoli), as XFS and Btrfs keep it: started and ended inverted, little-endian on disk.

use crc::{CRC_32_ISCSI, Crc, Table};

/// Sixteen tables: a gigabyte a second and more, also over whole trees.
static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Of all of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// Of a structure that holds its own checksum in the four bytes at `hole`, which count as zero. A hole outside it gives the
/// checksum of all of it.
pub(super) fn crc32c_around(bytes: &[u8], hole: usize) -> u32 {
    let Some((before, after)) =
        hole.checked_add(4).and_then(|end| Some((bytes.get(..hole)?, bytes.get(end..)?)))
    else {
        return crc32c(bytes);
    };
    let mut digest = CRC.digest();
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(after);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_and_a_hole() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_around(b"12\xff\xff\xff\xff789", 2), crc32c(b"12\0\0\0\x00789"));
        assert_ne!(crc32c_around(b"12\xff\xff\xff\xff789", 3), crc32c(b"12\0\0\0\x00789"));
        assert_eq!(crc32c_around(b"123", 1), crc32c(b"123"));
    }
}
