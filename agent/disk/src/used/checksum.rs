//! CRC-32C and CRC-16 as filesystems use them: plain, without a final inversion, and chained over several pieces (ext4), or
//! inverted at the end (XFS, Btrfs).
//! Sources: the kernel's Documentation/filesystems/ext4/checksums.rst; proven against the filesystems' tools by the poison
//! tests.

use crc::{Algorithm, CRC_16_ARC, CRC_32_ISCSI, Crc, Table};

/// Plain chaining: no inversion at the end.
const RAW_32C: Algorithm<u32> = Algorithm { xorout: 0, ..CRC_32_ISCSI };
const RAW_16: Algorithm<u16> = Algorithm { xorout: 0, ..CRC_16_ARC };

static TABLE_32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&RAW_32C);
static TABLE_16: Crc<u16> = Crc::<u16>::new(&RAW_16);

/// CRC-32C over `pieces`, going on from `seed`.
pub(super) fn crc32c(seed: u32, pieces: &[&[u8]]) -> u32 {
    // The crate takes the starting value in the order of the polynomial, not in the reflected order of the register.
    let mut digest = TABLE_32C.digest_with_initial(seed.reverse_bits());
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize()
}

/// The usual CRC-32C, inverted at the end, of a structure that holds its own in the four bytes at `hole`, which count as zero. A
/// structure that is too short for the hole is covered whole.
pub(super) fn crc32c_around(bytes: &[u8], hole: usize) -> u32 {
    let end = hole.saturating_add(4);
    match (bytes.get(..hole), bytes.get(end..)) {
        (Some(before), Some(after)) => !crc32c(u32::MAX, &[before, &[0; 4], after]),
        _ => !crc32c(u32::MAX, &[bytes]),
    }
}

/// CRC-16 over `pieces`, from all ones.
pub(super) fn crc16(pieces: &[&[u8]]) -> u16 {
    let mut digest = TABLE_16.digest_with_initial(u16::MAX);
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_chained_and_not_inverted() {
        assert_eq!(crc32c(u32::MAX, &[b"123456789"]), !0xe306_9283);
        assert_eq!(crc32c(crc32c(u32::MAX, &[b"1234"]), &[b"567", b"89"]), !0xe306_9283);
        assert_eq!(crc32c_around(b"12\xff\xff\xff\xff789", 2), !crc32c(u32::MAX, &[b"12\0\0\0\x00789"]));
        assert_ne!(crc32c_around(b"12\xff\xff\xff\xff789", 3), !crc32c(u32::MAX, &[b"12\0\0\0\x00789"]));
        assert_eq!(crc32c_around(b"123456789", 6), 0xe306_9283);
        // CRC-16/MODBUS is the same with the same start.
        assert_eq!(crc16(&[b"1234", b"56789"]), 0x4b37);
    }
}
