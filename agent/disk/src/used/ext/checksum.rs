//! The checksums of ext4: CRC-32C and CRC-16, both without a final inversion and chained over several pieces.
//! Source: the kernel's Documentation/filesystems/ext4/checksums.rst; proven against mke2fs by the poison tests.

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
        // CRC-16/MODBUS is the same with the same start.
        assert_eq!(crc16(&[b"1234", b"56789"]), 0x4b37);
    }
}
