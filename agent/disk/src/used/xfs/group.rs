//! One allocation group: its headers, and its two trees against each other.

use super::superblock::{Geometry, Superblock};
use super::tree::{self, Order, Tree};
use crate::used::checksum::crc32c_around;
use crate::used::fields::{be32, le32};
use crate::used::{Doubt, Ranges, Window};

/// "Nothing", as a block number or index within a group.
pub(super) const NULL: u32 = u32::MAX;
/// Superblock, free space header, inode header, free list: one sector each.
const HEADERS: u64 = 4;
/// Bytes before the entries of a free list of version 5.
const FREE_LIST_HEADER: usize = 36;

/// A sector that heads a group, and where version 5 keeps its UUID and checksum.
struct Header {
    name: &'static str,
    magic: &'static [u8],
    uuid: usize,
    checksum: usize,
}

const FREE_SPACE: Header = Header { name: "free space header", magic: b"XAGF", uuid: 64, checksum: 216 };
const INODES: Header = Header { name: "inode header", magic: b"XAGI", uuid: 296, checksum: 312 };
const FREE_LIST: Header = Header { name: "free list", magic: b"XAFL", uuid: 8, checksum: 32 };

impl Header {
    fn doubt(&self, group: u64, what: &str) -> Doubt {
        Doubt::new(format!("the {} of group {group} {what}", self.name))
    }

    fn check(&self, sector: &[u8], geometry: &Geometry, group: u64) -> Result<(), Doubt> {
        if !sector.starts_with(self.magic) {
            return Err(self.doubt(group, "has no signature"));
        }
        if geometry.v5() {
            if sector.get(self.uuid..self.uuid + 16) != Some(&geometry.uuid) {
                return Err(self.doubt(group, "belongs to another filesystem"));
            }
            if crc32c_around(sector, self.checksum) != le32(sector, self.checksum)? {
                return Err(self.doubt(group, "has a wrong checksum"));
            }
        }
        Ok(())
    }

    /// Free space and inode headers say which group of what length they head.
    fn check_place(&self, sector: &[u8], geometry: &Geometry, group: u64) -> Result<(), Doubt> {
        self.check(sector, geometry, group)?;
        let said = (be32(sector, 4)?, u64::from(be32(sector, 8)?), u64::from(be32(sector, 12)?));
        if said != (1, group, geometry.group_length(group)) {
            return Err(self.doubt(group, "names another version, place or length"));
        }
        Ok(())
    }
}

/// Adds what group `number` uses. Gives the blocks that the superblock counts as free in it: free space, the free list, and
/// the blocks of free space trees and reverse map beside their roots (they came from the free list).
pub(super) fn map(
    window: &Window<'_>,
    superblock: &Superblock,
    number: u64,
    used: &mut Ranges,
) -> Result<u64, Doubt> {
    let geometry = &superblock.geometry;
    let start = geometry.group_start(number);
    let heads = window.read(start, HEADERS * geometry.sector)?;
    let sectors: Vec<&[u8]> = heads.chunks_exact(usize::try_from(geometry.sector).unwrap_or(512)).collect();
    let [copy, free_space, inodes, free_list] = sectors[..] else {
        return Err(Doubt::new("its group headers are short"));
    };
    superblock.check_copy(copy, number)?;
    FREE_SPACE.check_place(free_space, geometry, number)?;
    INODES.check_place(inodes, geometry, number)?;

    let tree = |order, root, levels| Tree { window, geometry, group: number, order, root, levels };
    let mut end = 0;
    let mut note_gap = |block: u32, count: u32| {
        used.insert(start + end * geometry.block..start + u64::from(block) * geometry.block);
        end = u64::from(block) + u64::from(count);
    };
    let by_block = tree(Order::Block, be32(free_space, 16)?, be32(free_space, 28)?).walk(&mut note_gap)?;
    used.insert(start + end * geometry.block..start + geometry.group_length(number) * geometry.block);
    let by_count = tree(Order::Count, be32(free_space, 20)?, be32(free_space, 32)?).walk(&mut |_, _| ())?;

    if by_block.extents != by_count.extents {
        return Err(Doubt::new(format!("the two free space trees of group {number} differ")));
    }
    let extents = by_block.extents;
    if (extents.sum, extents.longest) != (be32(free_space, 52)?.into(), be32(free_space, 56)?.into()) {
        return Err(FREE_SPACE.doubt(number, "counts other free blocks than its trees hold"));
    }
    let mut reserve = by_block.nodes + by_count.nodes - 2;
    if superblock.reverse_map {
        reserve += u64::from(be32(free_space, 80)?).saturating_sub(1);
    }
    if superblock.lazy && reserve != u64::from(be32(free_space, 60)?) {
        return Err(FREE_SPACE.doubt(number, "counts other tree blocks than there are"));
    }
    let held = check_free_list(free_space, free_list, geometry, number, used)?;
    Ok(extents.sum + held + reserve)
}

/// The blocks held back for the group's own trees are used, and as many as the header says.
fn check_free_list(
    header: &[u8],
    list: &[u8],
    geometry: &Geometry,
    group: u64,
    used: &Ranges,
) -> Result<u64, Doubt> {
    let entries = if geometry.v5() {
        FREE_LIST.check(list, geometry, group)?;
        if u64::from(be32(list, 4)?) != group {
            return Err(FREE_LIST.doubt(group, "names another group"));
        }
        &list[FREE_LIST_HEADER..]
    } else {
        list
    };
    let size = entries.len() / 4;
    let (first, last, count) =
        (be32(header, 40)? as usize, be32(header, 44)? as usize, be32(header, 48)? as usize);
    let span = if count == 0 { 0 } else { (last + size).wrapping_sub(first) % size + 1 };
    if first >= size || last >= size || count > size || span != count {
        return Err(FREE_LIST.doubt(group, "has another length than its header says"));
    }
    for index in 0..count {
        let block = be32(entries, (first + index) % size * 4)?;
        let at = geometry.group_start(group) + u64::from(block) * geometry.block;
        if !tree::in_group(geometry, group, block) || !used.contains(at) {
            return Err(FREE_LIST.doubt(group, "holds a block that is free or not in the group"));
        }
    }
    Ok(count as u64)
}
