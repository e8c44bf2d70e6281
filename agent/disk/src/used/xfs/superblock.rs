//! The superblock: geometry, features and counters. Big-endian.

use crate::used::checksum::crc32c_around;
use crate::used::fields::{be16, be32, be64, le32};
use crate::used::{Doubt, Window};

const MAGIC: &[u8] = b"XFSB";
/// Where version 5 keeps the checksum of the sector.
const CHECKSUM: usize = 224;
/// The kernel's own bounds.
const BLOCK: std::ops::RangeInclusive<u64> = 512..=65536;
const SECTOR: std::ops::RangeInclusive<u64> = 512..=32768;
const LEAST_GROUP_BLOCKS: u64 = 64;
const MOST_GROUP_BYTES: u64 = 1 << 40;

/// Version 4 feature bits beside the version number: all but shared superblocks, which never came to be.
const KNOWN_BITS: u16 = 0xfdff;
const SHARED: u16 = 0x0200;
const MORE_BITS: u16 = 0x8000;
const LAZY: u32 = 0x2;
/// Lazy counters, attr2, parent, projid32, checksums, file types.
const KNOWN_BITS2: u32 = 0x39a;
/// Version 5: free inode tree, reverse map, reflink, inode tree counters.
const KNOWN_READ_ONLY: u32 = 0xf;
pub(super) const REVERSE_MAP: u32 = 0x2;
/// Version 5: file types, sparse inodes, metadata UUID, big time, (needs repair,) large extent counters, exchange range,
/// parent pointers. None of them changes what the trees of free space mean. Metadata directories and zones do.
const KNOWN_INCOMPATIBLE: u32 = 0xff;
const METADATA_UUID: u32 = 0x4;
const NEEDS_REPAIR: u32 = 0x10;

/// What all copies of the superblock agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    /// 4 or 5.
    pub version: u16,
    /// Bytes of a filesystem block.
    pub block: u64,
    /// Bytes of a sector: the unit of group headers.
    pub sector: u64,
    /// Filesystem blocks in all.
    pub blocks: u64,
    /// Allocation groups.
    pub groups: u64,
    /// Blocks of each group but perhaps the last.
    pub group_blocks: u64,
    /// Low bits of a filesystem block number that count within a group.
    pub group_bits: u32,
    /// Filesystem block number of the log.
    pub log_start: u64,
    /// Blocks of the log.
    pub log_blocks: u64,
    /// What every block of metadata names as its filesystem.
    pub uuid: [u8; 16],
}

impl Geometry {
    /// Whether blocks name themselves and carry checksums.
    pub fn v5(&self) -> bool {
        self.version == 5
    }

    /// Bytes of the filesystem. Cannot overflow: checked against the window.
    pub fn bytes(&self) -> u64 {
        self.blocks * self.block
    }

    /// The byte at which a group starts.
    pub fn group_start(&self, group: u64) -> u64 {
        group * self.group_blocks * self.block
    }

    /// Blocks of a group.
    pub fn group_length(&self, group: u64) -> u64 {
        self.group_blocks.min(self.blocks.saturating_sub(group * self.group_blocks))
    }

    fn parse(sector: &[u8]) -> Result<Self, Doubt> {
        if !sector.starts_with(MAGIC) {
            return Err(Doubt::new("a copy of its superblock has no signature"));
        }
        let version = be16(sector, 100)? & 0xf;
        let incompatible = if version == 5 { be32(sector, 216)? } else { 0 };
        let uuid = if incompatible & METADATA_UUID == 0 { 32 } else { 248 };
        Ok(Self {
            version,
            block: be32(sector, 4)?.into(),
            sector: be16(sector, 102)?.into(),
            blocks: be64(sector, 8)?,
            groups: be32(sector, 88)?.into(),
            group_blocks: be32(sector, 84)?.into(),
            group_bits: sector[124].into(),
            log_start: be64(sector, 48)?,
            log_blocks: be32(sector, 96)?.into(),
            uuid: uuid_at(sector, uuid),
        })
    }

    /// Everything later arithmetic rests on.
    fn check(&self, window: &Window<'_>) -> Result<(), Doubt> {
        let fits = |value: u64, range: std::ops::RangeInclusive<u64>| {
            value.is_power_of_two() && range.contains(&value)
        };
        let bits = self.group_blocks.checked_next_power_of_two().map_or(0, u64::trailing_zeros);
        let full = self.group_blocks.saturating_mul(self.groups);
        let sound = fits(self.block, BLOCK)
            && fits(self.sector, SECTOR)
            && self.sector <= self.block
            && (LEAST_GROUP_BLOCKS..=MOST_GROUP_BYTES / self.block).contains(&self.group_blocks)
            && self.group_bits == bits
            && self.blocks <= full
            && self.blocks > full.saturating_sub(self.group_blocks);
        if !sound {
            return Err(Doubt::new("the geometry in its superblock cannot be"));
        }
        match self.blocks.checked_mul(self.block) {
            Some(bytes) if bytes <= window.size() => Ok(()),
            _ => Err(Doubt::new("it is larger than its partition")),
        }
    }
}

/// The primary superblock.
#[derive(Debug)]
pub(super) struct Superblock {
    pub geometry: Geometry,
    /// Free blocks, by what an unmount writes.
    pub free: u64,
    /// Whether group headers count the blocks of their free space trees.
    pub lazy: bool,
    /// Whether groups have a reverse map, whose blocks come from the same reserve as those of the free space trees.
    pub reverse_map: bool,
    /// What the log names as its filesystem.
    pub log_uuid: [u8; 16],
}

impl Superblock {
    /// Reads and checks the primary superblock. Its copies are checked with their groups.
    pub fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let start = window.read(0, *SECTOR.start())?;
        let geometry = Geometry::parse(&start)?;
        geometry.check(window)?;
        let sector = window.read(0, geometry.sector)?;
        must_be_whole(&sector, &geometry)?;
        known_features(&sector, &geometry)?;
        if sector[126] != 0 {
            return Err(Doubt::new("its mkfs did not end"));
        }
        if be64(&sector, 16)? != 0 {
            return Err(Doubt::new("it has a realtime device"));
        }
        if geometry.log_start == 0 {
            return Err(Doubt::new("its log is on another device"));
        }
        let more = be16(&sector, 100)? & MORE_BITS != 0;
        Ok(Self {
            free: be64(&sector, 144)?,
            lazy: geometry.v5() || more && be32(&sector, 200)? & LAZY != 0,
            reverse_map: geometry.v5() && be32(&sector, 212)? & REVERSE_MAP != 0,
            log_uuid: uuid_at(&sector, 32),
            geometry,
        })
    }

    /// Checks a group's copy against the primary.
    pub fn check_copy(&self, sector: &[u8], group: u64) -> Result<(), Doubt> {
        must_be_whole(sector, &self.geometry)?;
        if Geometry::parse(sector)? != self.geometry {
            return Err(Doubt::new(format!("the superblock's copy in group {group} has another geometry")));
        }
        Ok(())
    }
}

fn must_be_whole(sector: &[u8], geometry: &Geometry) -> Result<(), Doubt> {
    if geometry.v5() && crc32c_around(sector, CHECKSUM) != le32(sector, CHECKSUM)? {
        return Err(Doubt::new("the checksum of a superblock is wrong"));
    }
    Ok(())
}

fn known_features(sector: &[u8], geometry: &Geometry) -> Result<(), Doubt> {
    let unknown =
        |set: &str, bits: u32| Err(Doubt::new(format!("it has unknown {set} features ({bits:#x})")));
    let bits = be16(sector, 100)?;
    if bits & !KNOWN_BITS != 0 || bits & SHARED != 0 {
        return unknown("version 4", bits.into());
    }
    let bits2 = if bits & MORE_BITS != 0 { be32(sector, 200)? } else { 0 };
    if bits2 & !KNOWN_BITS2 != 0 {
        return unknown("second version 4", bits2);
    }
    match geometry.version {
        4 => return Ok(()),
        5 => {}
        version => return Err(Doubt::new(format!("version {version} of XFS is not known"))),
    }
    let (read_only, incompatible) = (be32(sector, 212)?, be32(sector, 216)?);
    if read_only & !KNOWN_READ_ONLY != 0 {
        return unknown("read-only compatible", read_only);
    }
    if incompatible & !KNOWN_INCOMPATIBLE != 0 {
        return unknown("incompatible", incompatible);
    }
    if incompatible & NEEDS_REPAIR != 0 {
        return Err(Doubt::new("it needs xfs_repair, by its own word"));
    }
    Ok(())
}

/// Sixteen bytes that are known to be there.
fn uuid_at(sector: &[u8], at: usize) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&sector[at..at + 16]);
    uuid
}
