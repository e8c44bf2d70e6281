//! The B+trees of free space ("short form": block numbers count within their group).

use super::group::NULL;
use super::superblock::Geometry;
use crate::used::checksum::crc32c_around;
use crate::used::fields::{be16, be32, be64, le32};
use crate::used::print::Print;
use crate::used::{Doubt, Window};

/// The kernel's bound on the height of a tree.
const MOST_LEVELS: u32 = 9;
/// Bytes before the records: signature, level, count, siblings; and on version 5 place, LSN, UUID, owner, checksum.
const HEADER_V4: usize = 16;
const HEADER_V5: usize = 56;
const CHECKSUM: usize = 52;
/// A record, and a key, of a free space tree: first block, number of blocks.
const RECORD: usize = 8;
const POINTER: usize = 4;

/// What a tree is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Block,
    Count,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Free extents, in blocks of the group.
    pub extents: Print,
    /// Blocks of the tree itself.
    pub nodes: u64,
    last: Option<(u32, u32)>,
}

/// One tree, before it is walked.
pub(super) struct Tree<'a> {
    pub window: &'a Window<'a>,
    pub geometry: &'a Geometry,
    pub group: u64,
    pub order: Order,
    /// Block of the root, and its height above no tree at all.
    pub root: u32,
    pub levels: u32,
}

impl Tree<'_> {
    /// Visits the extents in the tree's order. Ends on any disk: levels fall, no block but the root is empty, records rise.
    pub fn walk(&self, visit: &mut dyn FnMut(u32, u32)) -> Result<Walked, Doubt> {
        if !(1..=MOST_LEVELS).contains(&self.levels) {
            return Err(self.doubt(self.root, &format!("would have {} levels", self.levels)));
        }
        let mut walked = Walked::default();
        self.node(self.root, self.levels - 1, &mut walked, visit)?;
        Ok(walked)
    }

    fn node(
        &self,
        block: u32,
        level: u32,
        walked: &mut Walked,
        visit: &mut dyn FnMut(u32, u32),
    ) -> Result<(), Doubt> {
        let bytes = self.read(block)?;
        walked.nodes += 1;
        let header = if self.geometry.v5() { HEADER_V5 } else { HEADER_V4 };
        let count = usize::from(be16(&bytes, 6)?);
        let room = bytes.len() - header;
        let most = if level == 0 { room / RECORD } else { room / (RECORD + POINTER) };
        // A group without free space has one empty leaf.
        let least = usize::from(self.levels > 1);
        if u32::from(be16(&bytes, 4)?) != level || !(least..=most).contains(&count) {
            return Err(self.doubt(block, "has a wrong level or number of records"));
        }
        for index in 0..count {
            if level > 0 {
                let child = be32(&bytes, header + most * RECORD + index * POINTER)?;
                self.node(child, level - 1, walked, visit)?;
                continue;
            }
            let at = header + index * RECORD;
            let (start, length) = (be32(&bytes, at)?, be32(&bytes, at + 4)?);
            self.check_record(start, length, walked.last).map_err(|what| self.doubt(block, what))?;
            walked.last = Some((start, length));
            walked.extents.add(start.into()..u64::from(start) + u64::from(length));
            visit(start, length);
        }
        Ok(())
    }

    /// Records lie in the group and rise; by block, they do not even touch.
    fn check_record(&self, start: u32, length: u32, last: Option<(u32, u32)>) -> Result<(), &'static str> {
        let end = start.checked_add(length).filter(|&end| length > 0 && end != NULL);
        if !end.is_some_and(|end| {
            in_group(self.geometry, self.group, start) && in_group(self.geometry, self.group, end - 1)
        }) {
            return Err("calls blocks free that the group does not have");
        }
        let rises = match (self.order, last) {
            (_, None) => true,
            (Order::Block, Some((before, count))) => u64::from(start) > u64::from(before) + u64::from(count),
            (Order::Count, Some((before, count))) => (length, start) > (count, before),
        };
        if rises { Ok(()) } else { Err("is out of order") }
    }

    fn read(&self, block: u32) -> Result<Vec<u8>, Doubt> {
        if !in_group(self.geometry, self.group, block) {
            return Err(self.doubt(block, "lies outside its group"));
        }
        let at = self.geometry.group_start(self.group) + u64::from(block) * self.geometry.block;
        let bytes = self.window.read(at, self.geometry.block)?;
        let magic: &[u8] = match (self.order, self.geometry.v5()) {
            (Order::Block, false) => b"ABTB",
            (Order::Count, false) => b"ABTC",
            (Order::Block, true) => b"AB3B",
            (Order::Count, true) => b"AB3C",
        };
        if !bytes.starts_with(magic) {
            return Err(self.doubt(block, "has no signature"));
        }
        if self.geometry.v5() {
            // Places count in 512 bytes whatever the sector size.
            let placed = be64(&bytes, 16)? == at / 512
                && u64::from(be32(&bytes, 48)?) == self.group
                && bytes.get(32..48) == Some(&self.geometry.uuid);
            if !placed || crc32c_around(&bytes, CHECKSUM) != le32(&bytes, CHECKSUM)? {
                return Err(self.doubt(block, "has a wrong checksum, place or owner"));
            }
        }
        Ok(bytes)
    }

    fn doubt(&self, block: u32, what: &str) -> Doubt {
        Doubt::new(format!("block {block} of a free space tree of group {} {what}", self.group))
    }
}

/// Whether a block lies in the group, behind its headers.
pub(super) fn in_group(geometry: &Geometry, group: u64, block: u32) -> bool {
    u64::from(block) * geometry.block >= 4 * geometry.sector
        && u64::from(block) < geometry.group_length(group)
}
