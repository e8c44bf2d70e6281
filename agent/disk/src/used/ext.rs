//! ext2, ext3 and ext4.
//!
//! A filesystem is a row of groups, and each has a bitmap of its blocks (with bigalloc: of its clusters). The map is what the
//! bitmaps say, believed only when all of this holds:
//!
//! * the superblock says clean, without errors, orphans or features that are not known here; the journal is empty;
//! * checksums, where the filesystem has them, are right: superblock, descriptors, bitmaps;
//! * in each group the bitmap has as many zeroes as the descriptor says are free, and marks the group's own metadata as
//!   used; the groups' sum is the superblock's count.
//!
//! A bitmap that was never written (BLOCK_UNINIT) is not read: such a group holds its own metadata only, and its descriptor must
//! count everything else as free. So an almost empty filesystem costs its descriptor table and little else; neighbouring
//! bitmaps (flex_bg) are read together. Metadata is used whatever a bitmap says, as are the bytes before the first block and
//! behind the last.

mod groups;
mod quiet;
mod superblock;

use std::ops::Range;

use self::groups::Group;
use self::superblock::Superblock;
use super::bitmap::{count_set, set_runs};
use super::checksum::crc32c;
use super::{Doubt, Ranges, Window};

/// The most bytes of neighbouring bitmaps that are read at once.
const PIECE: u64 = 1 << 20;

/// The used bytes of the filesystem in `window`.
///
/// # Errors
/// Everything that makes its own records less than certain; see the module.
pub fn map(window: &Window<'_>) -> Result<Ranges, Doubt> {
    let superblock = Superblock::read(window)?;
    quiet::check(window, &superblock)?;
    let mut used = Ranges::default();
    let mut free = 0;
    groups::for_each(window, &superblock, |groups| {
        free += add_groups(window, &superblock, groups, &mut used)?;
        Ok(())
    })?;
    let (free, count) = (free * superblock.ratio, superblock.free);
    if free != count {
        return Err(Doubt::new(format!("its superblock counts {count} free blocks, its groups {free}")));
    }
    used.insert(0..superblock::PLACE + 1024);
    used.insert(superblock.blocks * superblock.block..window.size());
    Ok(used)
}

/// Adds what some groups use; their free clusters.
fn add_groups(
    window: &Window<'_>,
    superblock: &Superblock,
    groups: &[Group],
    used: &mut Ranges,
) -> Result<u64, Doubt> {
    let mut free = 0;
    for group in groups {
        let metadata = metadata_of(superblock, group);
        for part in &metadata {
            // With bigalloc what shares a cluster with metadata is nobody else's.
            let end = part.end.next_multiple_of(superblock.ratio).min(superblock.blocks);
            used.insert(bytes(superblock, &(part.start / superblock.ratio * superblock.ratio..end)));
        }
        free += group.free;
        if group.uninitialised {
            check_uninitialised(superblock, group, &metadata)?;
        }
    }
    let mut written = groups.iter().filter(|group| !group.uninitialised).peekable();
    while let Some(first) = written.next() {
        let mut run = vec![first];
        while let Some(next) = written.next_if(|next| {
            let length = run.len() as u64;
            next.block_bitmap == first.block_bitmap + length && (length + 1) * superblock.block <= PIECE
        }) {
            run.push(next);
        }
        let raw = window.read(first.block_bitmap * superblock.block, run.len() as u64 * superblock.block)?;
        let size = usize::try_from(superblock.block).unwrap_or(usize::MAX);
        for (group, bitmap) in run.into_iter().zip(raw.chunks_exact(size)) {
            add_bitmap(superblock, group, bitmap, used)?;
        }
    }
    Ok(free)
}

/// Checks a bitmap against its descriptor, and adds what it marks.
fn add_bitmap(superblock: &Superblock, group: &Group, bitmap: &[u8], used: &mut Ranges) -> Result<(), Doubt> {
    let number = group.number;
    let covered = usize::try_from(superblock.group_clusters() / 8).unwrap_or(usize::MAX).min(bitmap.len());
    if superblock.bitmaps_are_checked() {
        let sum = crc32c(superblock.seed, &[&bitmap[..covered]]);
        let sum = if superblock.descriptor >= 64 { sum } else { sum & 0xffff };
        if sum != group.bitmap_checksum {
            return Err(Doubt::new(format!("the bitmap of group {number} has a wrong checksum")));
        }
    }
    let blocks = groups::blocks_of(superblock, number);
    let clusters = (blocks.end - blocks.start).div_ceil(superblock.ratio);
    let zeroes = clusters - count_set(bitmap, clusters);
    if zeroes != group.free {
        let free = group.free;
        return Err(Doubt::new(format!(
            "group {number} counts {free} free clusters, its bitmap has {zeroes}"
        )));
    }
    for part in metadata_of(superblock, group) {
        for cluster in clusters_within(superblock, &blocks, &part) {
            let byte = usize::try_from(cluster / 8).ok().and_then(|at| bitmap.get(at)).copied().unwrap_or(0);
            if byte >> (cluster % 8) & 1 == 0 {
                return Err(Doubt::new(format!("the bitmap of group {number} calls its own metadata free")));
            }
        }
    }
    for run in set_runs(bitmap, clusters) {
        let block = |cluster: u64| (blocks.start + cluster * superblock.ratio).min(blocks.end);
        used.insert(bytes(superblock, &(block(run.start)..block(run.end))));
    }
    Ok(())
}

/// A group without a bitmap must count everything but its own metadata as free.
fn check_uninitialised(superblock: &Superblock, group: &Group, metadata: &[Range<u64>]) -> Result<(), Doubt> {
    let blocks = groups::blocks_of(superblock, group.number);
    let clusters = (blocks.end - blocks.start).div_ceil(superblock.ratio);
    // A set, because with bigalloc two of them may share a cluster.
    let mut own = Ranges::default();
    metadata.iter().for_each(|part| own.insert(clusters_within(superblock, &blocks, part)));
    let expected = clusters - own.total();
    if expected != group.free {
        let (number, free) = (group.number, group.free);
        return Err(Doubt::new(format!(
            "group {number} was never written and counts {free} free clusters instead of {expected}"
        )));
    }
    Ok(())
}

/// Copies of superblock and descriptors in the group, its bitmaps and its inode table; in blocks.
fn metadata_of(superblock: &Superblock, group: &Group) -> [Range<u64>; 4] {
    let [block_bitmap, inode_bitmap, inode_table] = group.own_metadata(superblock);
    [groups::fixed_metadata(superblock, group.number), block_bitmap, inode_bitmap, inode_table]
}

/// The clusters, counted from the first of `blocks`, that the part of `part` inside `blocks` lies in.
fn clusters_within(superblock: &Superblock, blocks: &Range<u64>, part: &Range<u64>) -> Range<u64> {
    let (start, end) = (part.start.max(blocks.start), part.end.min(blocks.end));
    if start >= end {
        return 0..0;
    }
    (start - blocks.start) / superblock.ratio..(end - blocks.start).div_ceil(superblock.ratio)
}

/// Blocks as bytes.
fn bytes(superblock: &Superblock, blocks: &Range<u64>) -> Range<u64> {
    blocks.start * superblock.block..blocks.end * superblock.block
}
