//! The four checksums that a Btrfs may be made with. Each is stored at the start of what it covers, padded with zeroes.

use blake2::Blake2b256;
use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

use crate::used::Doubt;
use crate::used::checksum::crc32c;

/// Bytes that are reserved for one.
pub(super) const SIZE: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By its number on disk.
    pub fn from_number(number: u16) -> Result<Self, Doubt> {
        match number {
            0 => Ok(Self::Crc32c),
            1 => Ok(Self::XxHash64),
            2 => Ok(Self::Sha256),
            3 => Ok(Self::Blake2b),
            _ => Err(Doubt::new(format!("it uses an unknown checksum ({number})"))),
        }
    }

    /// Whether a block that starts with its checksum is whole.
    pub fn fits(self, block: &[u8]) -> bool {
        let Some((stored, covered)) = block.split_at_checked(SIZE) else { return false };
        match self {
            Self::Crc32c => stored.starts_with(&(!crc32c(u32::MAX, &[covered])).to_le_bytes()),
            Self::XxHash64 => stored.starts_with(&XxHash64::oneshot(0, covered).to_le_bytes()),
            Self::Sha256 => stored == Sha256::digest(covered).as_slice(),
            Self::Blake2b => stored == Blake2b256::digest(covered).as_slice(),
        }
    }
}
