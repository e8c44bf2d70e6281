//! Group descriptors: where they lie and what they say.
//! Source of the layout: the kernel's Documentation/filesystems/ext4/group_descr.rst and blockgroup.rst.

use std::ops::Range;

use super::superblock::Superblock;
use crate::used::checksum::{crc16, crc32c};
use crate::used::fields::{le16, le32};
use crate::used::{Doubt, Window};

/// The most descriptor bytes that are read at once.
const PIECE: u64 = 256 << 10;
const CHECKSUM_AT: usize = 0x1e;
const BLOCK_UNINIT: u16 = 2;

/// One group. Places are block numbers.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub number: u64,
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    /// Free clusters.
    pub free: u64,
    /// The bitmap was never written: only the group's own metadata is used.
    pub uninitialised: bool,
    /// Checksum of the bitmap, its low 16 bits only with short descriptors.
    pub bitmap_checksum: u32,
}

impl Group {
    fn parse(superblock: &Superblock, number: u64, raw: &[u8]) -> Result<Self, Doubt> {
        let wide = raw.len() >= 64;
        let place = |low, high| -> Result<u64, Doubt> {
            Ok(u64::from(le32(raw, low)?) | if wide { u64::from(le32(raw, high)?) << 32 } else { 0 })
        };
        let half = |low, high| -> Result<u32, Doubt> {
            Ok(u32::from(le16(raw, low)?) | if wide { u32::from(le16(raw, high)?) << 16 } else { 0 })
        };
        let group = Self {
            number,
            block_bitmap: place(0x0, 0x20)?,
            inode_bitmap: place(0x4, 0x24)?,
            inode_table: place(0x8, 0x28)?,
            free: u64::from(half(0xc, 0x2c)?),
            uninitialised: superblock.descriptors_are_checked() && le16(raw, 0x12)? & BLOCK_UNINIT != 0,
            bitmap_checksum: half(0x18, 0x38)?,
        };
        if superblock.descriptors_are_checked()
            && checksum(superblock, number, raw) != le16(raw, CHECKSUM_AT)?
        {
            return Err(Doubt::new(format!("the descriptor of group {number} has a wrong checksum")));
        }
        for part in group.own_metadata(superblock) {
            if part.start < superblock.first || part.end > superblock.blocks {
                return Err(Doubt::new(format!("the metadata of group {number} lie outside the filesystem")));
            }
        }
        Ok(group)
    }

    /// Its bitmaps and its inode table, in blocks. They may lie in another group.
    pub(super) fn own_metadata(&self, superblock: &Superblock) -> [Range<u64>; 3] {
        let table = (superblock.group_inodes * superblock.inode_size).div_ceil(superblock.block);
        let from = |start: u64, length| start..start.saturating_add(length);
        [from(self.block_bitmap, 1), from(self.inode_bitmap, 1), from(self.inode_table, table)]
    }
}

fn checksum(superblock: &Superblock, number: u64, raw: &[u8]) -> u16 {
    let number = u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let (before, after) = (&raw[..CHECKSUM_AT], &raw[CHECKSUM_AT + 2..]);
    if superblock.bitmaps_are_checked() {
        return crc32c(superblock.seed, &[&number, before, &[0, 0], after]) as u16;
    }
    crc16(&[&superblock.uuid, &number, before, after])
}

/// The blocks of a group that it owns whatever its descriptor says: copies of the superblock and of the descriptors.
pub(super) fn fixed_metadata(superblock: &Superblock, group: u64) -> Range<u64> {
    let start = first_block(superblock, group);
    let copy = superblock.has_copy(group);
    let meta_group = group / superblock.descriptors_in_block();
    let length = if meta_group >= superblock.first_meta {
        let within = group % superblock.descriptors_in_block();
        let holds = within <= 1 || within == superblock.descriptors_in_block() - 1;
        u64::from(copy) + u64::from(holds)
    } else if copy {
        1 + table_blocks(superblock).min(superblock.first_meta) + superblock.reserved
    } else {
        0
    };
    // With blocks of 1 KiB in clusters the superblock is in block 1 of group 0, not in its first.
    let boot = u64::from(group == 0 && superblock.block == 1024 && superblock.first == 0);
    start..(start + length + boot).min(superblock.blocks)
}

/// First block of a group.
pub(super) fn first_block(superblock: &Superblock, group: u64) -> u64 {
    superblock.first + group * superblock.group_blocks
}

/// The blocks of a group; the last one may be short.
pub(super) fn blocks_of(superblock: &Superblock, group: u64) -> Range<u64> {
    let start = first_block(superblock, group);
    start..start.saturating_add(superblock.group_blocks).min(superblock.blocks)
}

fn table_blocks(superblock: &Superblock) -> u64 {
    superblock.groups.div_ceil(superblock.descriptors_in_block())
}

/// Where block `index` of the descriptor table lies.
fn table_block(superblock: &Superblock, index: u64) -> u64 {
    if index < superblock.first_meta {
        return u64::from(superblock.block == 1024) + 1 + index;
    }
    let range = fixed_metadata(superblock, index * superblock.descriptors_in_block());
    range.end.saturating_sub(1)
}

/// Gives all groups to `each`, some at a time, so that the table is never held whole.
pub(super) fn for_each(
    window: &Window<'_>,
    superblock: &Superblock,
    mut each: impl FnMut(&[Group]) -> Result<(), Doubt>,
) -> Result<(), Doubt> {
    let blocks = table_blocks(superblock);
    let mut index = 0;
    while index < blocks {
        let place = table_block(superblock, index);
        let together = match index < superblock.first_meta {
            true => (blocks.min(superblock.first_meta) - index).min(PIECE / superblock.block),
            false => 1,
        };
        if place >= superblock.blocks {
            return Err(Doubt::new("its group descriptors lie outside the filesystem"));
        }
        let raw = window.read(place * superblock.block, together * superblock.block)?;
        let first = index * superblock.descriptors_in_block();
        let size = usize::try_from(superblock.descriptor).unwrap_or(usize::MAX);
        let groups: Vec<Group> = (first..superblock.groups)
            .zip(raw.chunks_exact(size))
            .map(|(number, raw)| Group::parse(superblock, number, raw))
            .collect::<Result<_, _>>()?;
        each(&groups)?;
        index += together;
    }
    Ok(())
}

/// One group; `None` when there is no such group.
pub(super) fn one(window: &Window<'_>, superblock: &Superblock, number: u64) -> Result<Option<Group>, Doubt> {
    if number >= superblock.groups {
        return Ok(None);
    }
    let place = table_block(superblock, number / superblock.descriptors_in_block()) * superblock.block;
    let within = number % superblock.descriptors_in_block() * superblock.descriptor;
    let raw = window.read(place + within, superblock.descriptor)?;
    Group::parse(superblock, number, &raw).map(Some)
}
