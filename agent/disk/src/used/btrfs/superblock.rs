//! The superblock and its copies. Little-endian, like everything in a Btrfs.

use super::checksum::Checksum;
use super::tree::Root;
use crate::used::fields::{le16, le32, le64};
use crate::used::{Doubt, Window};

/// Bytes of a superblock.
pub(super) const SIZE: u64 = 4096;
const PRIMARY: u64 = 64 << 10;
const COPIES: [u64; 2] = [64 << 20, 256 << 30];
const MAGIC: &[u8] = b"_BHRfS_M";
/// Where the array of system chunks starts, and its room.
const SYSTEM_CHUNKS: usize = 811;
const SYSTEM_CHUNKS_ROOM: usize = 2048;
/// The kernel's bounds on sectors and tree blocks.
const SECTOR: std::ops::RangeInclusive<u64> = 4096..=65536;
const NODE: std::ops::RangeInclusive<u64> = 4096..=65536;
/// The tallest tree.
pub(super) const MOST_LEVELS: u8 = 8;

/// Flags: written, relocated. All others tell of seeds, errors, or a conversion that has not ended.
const KNOWN_FLAGS: u64 = 0x3;
const SEEDING: u64 = 1 << 32;
/// Free space tree, and that it is valid; verity; block group tree.
const KNOWN_READ_ONLY: u64 = 0xf;
const FREE_SPACE_TREE: u64 = 0x3;
const GROUP_TREE: u64 = 0x8;
/// Mixed references, default subvolume, mixed groups, LZO, Zstandard, big metadata, extended references, RAID 5 and 6,
/// skinny metadata, no holes, metadata UUID, RAID 1 with 3 and 4 copies, simple quotas. Not: zones, extent tree version 2, RAID
/// stripe tree. (Whether there are RAID chunks is seen in the chunks.)
const KNOWN_INCOMPATIBLE: u64 = 0x1_0fff;
const METADATA_UUID: u64 = 1 << 10;

/// The tree of tree roots and the tree of chunks, as numbered in block headers.
const ROOT_TREE: u64 = 1;
const CHUNK_TREE: u64 = 3;

/// What the superblock says.
#[derive(Debug)]
pub(super) struct Superblock {
    pub checksum: Checksum,
    /// What every tree block names as its filesystem.
    pub uuid: [u8; 16],
    /// Commit.
    pub generation: u64,
    /// Tree of tree roots.
    pub roots: Root,
    /// Chunk tree.
    pub chunks: Root,
    /// Sum of all extents in use, in bytes of address space.
    pub bytes_used: u64,
    /// Bytes of a sector, the unit of extents.
    pub sector: u64,
    /// Bytes of a tree block.
    pub node: u64,
    /// The device's number, UUID, size, and bytes of it that chunks have.
    pub device: u64,
    pub device_uuid: [u8; 16],
    pub device_bytes: u64,
    pub device_used: u64,
    /// The chunks that hold the chunk tree: pairs of key and chunk item.
    pub system_chunks: Vec<u8>,
    read_only_features: u64,
}

impl Superblock {
    /// Reads and checks the superblock, and compares its copies with it.
    pub fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let bytes = whole(window, PRIMARY)?;
        known_features(&bytes)?;
        let array = le32(&bytes, 160)? as usize;
        let system_chunks = bytes[SYSTEM_CHUNKS..SYSTEM_CHUNKS + SYSTEM_CHUNKS_ROOM].get(..array);
        let root = |tree, logical, level: usize, generation| -> Result<Root, Doubt> {
            Ok(Root {
                tree,
                logical: le64(&bytes, logical)?,
                level: bytes[level],
                generation: le64(&bytes, generation)?,
            })
        };
        let uuid = if le64(&bytes, 188)? & METADATA_UUID == 0 { 32 } else { 571 };
        let superblock = Self {
            checksum: Checksum::from_number(le16(&bytes, 196)?)?,
            uuid: uuid_at(&bytes, uuid),
            generation: le64(&bytes, 72)?,
            roots: root(ROOT_TREE, 80, 198, 72)?,
            chunks: root(CHUNK_TREE, 88, 199, 164)?,
            bytes_used: le64(&bytes, 120)?,
            sector: le32(&bytes, 144)?.into(),
            node: le32(&bytes, 148)?.into(),
            device: le64(&bytes, 201)?,
            device_uuid: uuid_at(&bytes, 267),
            device_bytes: le64(&bytes, 209)?,
            device_used: le64(&bytes, 217)?,
            system_chunks: system_chunks.ok_or_else(|| Doubt::new("its superblock is damaged"))?.to_vec(),
            read_only_features: le64(&bytes, 180)?,
        };
        superblock.check(&bytes, window)?;
        for place in superblock.copies() {
            let copy = whole(window, place)?;
            // Filesystem, and commit with the roots of its trees.
            if copy[32..48] != bytes[32..48] || copy[72..104] != bytes[72..104] {
                return Err(Doubt::new(format!(
                    "the superblock's copy at byte {place} is of another commit"
                )));
            }
        }
        Ok(superblock)
    }

    /// Where the superblock has copies.
    pub fn copies(&self) -> impl Iterator<Item = u64> {
        let end = self.device_bytes;
        COPIES.into_iter().filter(move |place| place + SIZE <= end)
    }

    /// Whether block group items have a tree of their own.
    pub fn has_group_tree(&self) -> bool {
        self.read_only_features & GROUP_TREE != 0
    }

    /// Whether there is a free space tree that was kept up by all that wrote.
    pub fn has_valid_free_space_tree(&self) -> bool {
        self.read_only_features & FREE_SPACE_TREE == FREE_SPACE_TREE
    }

    fn check(&self, bytes: &[u8], window: &Window<'_>) -> Result<(), Doubt> {
        let fits = |value: u64, range: std::ops::RangeInclusive<u64>| {
            value.is_power_of_two() && range.contains(&value)
        };
        if !fits(self.sector, SECTOR) || !fits(self.node, NODE) || self.node < self.sector {
            return Err(Doubt::new("the block sizes in its superblock cannot be"));
        }
        if le64(bytes, 136)? != 1 {
            return Err(Doubt::new("it spans several devices"));
        }
        if le64(bytes, 112)? != self.device_bytes || self.device_bytes <= PRIMARY + SIZE {
            return Err(Doubt::new("the sizes in its superblock cannot be"));
        }
        if self.device_bytes > window.size() {
            return Err(Doubt::new("it is larger than its partition"));
        }
        if le64(bytes, 96)? != 0 {
            return Err(Doubt::new("it is not clean: its log must be replayed"));
        }
        Ok(())
    }
}

/// The superblock at `place`, if it is one and whole.
fn whole(window: &Window<'_>, place: u64) -> Result<Vec<u8>, Doubt> {
    let bytes = window.read(place, SIZE)?;
    if bytes.get(64..72) != Some(MAGIC) || le64(&bytes, 48)? != place {
        return Err(Doubt::new(format!("there is no superblock at byte {place}")));
    }
    if !Checksum::from_number(le16(&bytes, 196)?)?.fits(&bytes) {
        return Err(Doubt::new(format!("the checksum of the superblock at byte {place} is wrong")));
    }
    Ok(bytes)
}

fn known_features(bytes: &[u8]) -> Result<(), Doubt> {
    let (flags, read_only, incompatible) = (le64(bytes, 56)?, le64(bytes, 180)?, le64(bytes, 188)?);
    if flags & SEEDING != 0 {
        return Err(Doubt::new("it is a seed of another filesystem"));
    }
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Doubt::new(format!("its flags tell of errors or of a conversion ({flags:#x})")));
    }
    if read_only & !KNOWN_READ_ONLY != 0 {
        return Err(Doubt::new(format!("it has unknown read-only compatible features ({read_only:#x})")));
    }
    if incompatible & !KNOWN_INCOMPATIBLE != 0 {
        return Err(Doubt::new(format!("it has unknown incompatible features ({incompatible:#x})")));
    }
    Ok(())
}

/// Sixteen bytes that are known to be there.
fn uuid_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[at..at + 16]);
    uuid
}
