//! The boot sector and its backup behind the last sector. Little-endian, like everything in NTFS.

use crate::used::fields::{le16, le64};
use crate::used::{Doubt, Window};

const OEM: &[u8] = b"NTFS    ";
const SECTOR: std::ops::RangeInclusive<u64> = 512..=4096;
const CLUSTER: std::ops::RangeInclusive<u64> = 512..=2 << 20;
const RECORD: std::ops::RangeInclusive<u64> = 1024..=4096;

/// The geometry of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    /// Bytes of a sector.
    sector: u64,
    /// Sectors but for the backup of the boot sector.
    sectors: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Whole clusters.
    pub clusters: u64,
    /// Bytes of a record of the master file table.
    pub record: u64,
    /// Cluster at which the master file table starts, and its mirror.
    pub table: u64,
    pub mirror: u64,
    serial: u64,
}

impl Boot {
    /// Reads and checks the boot sector, and compares the backup with it.
    pub fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let boot = Self::parse(&window.read(0, *SECTOR.start())?)?;
        let backup = boot.sectors * boot.sector;
        if backup.saturating_add(boot.sector) > window.size() {
            return Err(Doubt::new("it is larger than its partition"));
        }
        match Self::parse(&window.read(backup, *SECTOR.start())?) {
            Ok(copy) if copy == boot => Ok(boot),
            _ => Err(Doubt::new("its boot sector and the backup at its end differ")),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, Doubt> {
        if bytes.get(3..11) != Some(OEM) || le16(bytes, 510)? != 0xaa55 {
            return Err(Doubt::new("it has no boot sector of NTFS"));
        }
        let fits = |value: u64, range: std::ops::RangeInclusive<u64>| {
            value.is_power_of_two() && range.contains(&value)
        };
        let odd = || Doubt::new("the geometry in its boot sector cannot be");
        let sector = u64::from(le16(bytes, 11)?);
        if !fits(sector, SECTOR) {
            return Err(odd());
        }
        let cluster = size(bytes[13], sector, 0x80).filter(|&size| fits(size, CLUSTER)).ok_or_else(odd)?;
        let record = size(bytes[64], cluster, 0x7f).filter(|&size| fits(size, RECORD)).ok_or_else(odd)?;
        let sectors = le64(bytes, 40)?;
        let clusters = sectors.checked_mul(sector).ok_or_else(odd)? / cluster;
        let (table, mirror) = (le64(bytes, 48)?, le64(bytes, 56)?);
        if cluster < sector || table >= clusters || mirror >= clusters {
            return Err(odd());
        }
        Ok(Self { sector, sectors, cluster, clusters, record, table, mirror, serial: le64(bytes, 72)? })
    }
}

/// A size as the boot sector gives it: up to `most`, a number of units. Above, a negative power of two: of bytes for records,
/// and, as later versions of Windows write it, of sectors for clusters.
fn size(byte: u8, unit: u64, most: u8) -> Option<u64> {
    if byte <= most {
        return Some(u64::from(byte) * unit);
    }
    let power = 1u64.checked_shl(u32::from(byte.wrapping_neg()))?;
    if most == 0x80 { power.checked_mul(unit) } else { Some(power) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_units_or_powers() {
        assert_eq!(size(8, 512, 0x80), Some(4096));
        assert_eq!(size(0x80, 512, 0x80), Some(64 << 10));
        // 2^12 sectors: clusters of 2 MiB.
        assert_eq!(size(0xf4, 512, 0x80), Some(2 << 20));
        assert_eq!(size(0xf6, 4096, 0x7f), Some(1024));
        assert_eq!(size(1, 4096, 0x7f), Some(4096));
        assert_eq!(size(0x80, 4096, 0x7f), None);
    }
}
